"""Which open connections belong to whom, and which one closes when one of them has too many.

A connection belongs to nobody (a stranger's) until a request on it has shown a valid credential. Strangers share one
bound: when it is reached, the oldest of them is closed, so that a client with a credential always finds a place. Those
of one name have a bound of their own, and the one that has been idle longest is closed.
"""

from collections import OrderedDict
from typing import Protocol

_STRANGER = ""


class Closable(Protocol):
    """A connection."""

    @property
    def busy(self) -> bool:
        """Whether a request on it waits for its answer."""
        ...

    def shut(self) -> None:
        """Close it; `Crowd.gone` may be called before this returns, or later."""
        ...


class Crowd:
    """All connections of a server."""

    def __init__(self, *, strangers: int, of_one: int) -> None:
        self._most_strangers, self._most_of_one = strangers, of_one
        self._groups: dict[str, OrderedDict[Closable, None]] = {}
        self._names: dict[Closable, str] = {}

    def came(self, connection: Closable) -> None:
        """Add a connection as a stranger's."""
        self._join(connection, _STRANGER, self._most_strangers)

    def vouched(self, connection: Closable, name: str) -> None:
        """Say whose it is; the latest used of that name, from now on."""
        if self._names.get(connection) == name:
            self._groups[name].move_to_end(connection)
        elif connection in self._names:
            self.gone(connection)
            self._join(connection, name, self._most_of_one)

    def gone(self, connection: Closable) -> None:
        """Forget a connection; one that is not known is fine."""
        name = self._names.pop(connection, None)
        if name is not None:
            group = self._groups[name]
            del group[connection]
            if not group:
                del self._groups[name]

    def _join(self, connection: Closable, name: str, most: int) -> None:
        group = self._groups.setdefault(name, OrderedDict())
        group[connection] = None
        self._names[connection] = name
        if len(group) > most:
            others = [other for other in group if other is not connection]
            closed = next((other for other in others if not other.busy), others[0])
            self.gone(closed)
            closed.shut()
