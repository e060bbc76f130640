"""Limits the open connections of an HTTP server: in all without an owner, and for each owner.

A connection has no owner until a request on it has shown a valid credential. If there are too many connections without
an owner, the oldest of them is closed, so that a client with a credential can always connect. If one owner has too
many connections, the one that has been idle longest is closed.
"""

from collections import OrderedDict
from typing import Protocol

_ANONYMOUS = ""


class Closable(Protocol):
    """A connection that can be closed."""

    @property
    def busy(self) -> bool:
        """Whether a request on the connection waits for its response."""
        ...

    def shut(self) -> None:
        """Close the connection. `ConnectionLimits.remove` may be called before this method returns, or later."""
        ...


class ConnectionLimits:
    """The open connections of a server: at most `anonymous` without an owner, and `per_owner` for each owner."""

    def __init__(self, *, anonymous: int, per_owner: int) -> None:
        self._most_anonymous, self._most_per_owner = anonymous, per_owner
        self._groups: dict[str, OrderedDict[Closable, None]] = {}
        self._owners: dict[Closable, str] = {}

    def add(self, connection: Closable) -> None:
        """Add a new connection, which has no owner yet."""
        self._join(connection, _ANONYMOUS, self._most_anonymous)

    def assign(self, connection: Closable, owner: str) -> None:
        """Set the owner of a connection, and mark the connection as the one that this owner used last."""
        if self._owners.get(connection) == owner:
            self._groups[owner].move_to_end(connection)
        elif connection in self._owners:
            self.remove(connection)
            self._join(connection, owner, self._most_per_owner)

    def remove(self, connection: Closable) -> None:
        """Forget a connection. An unknown connection is ignored."""
        owner = self._owners.pop(connection, None)
        if owner is not None:
            group = self._groups[owner]
            del group[connection]
            if not group:
                del self._groups[owner]

    def _join(self, connection: Closable, owner: str, most: int) -> None:
        group = self._groups.setdefault(owner, OrderedDict())
        group[connection] = None
        self._owners[connection] = owner
        if len(group) > most:
            others = [other for other in group if other is not connection]
            closed = next((other for other in others if not other.busy), others[0])
            self.remove(closed)
            closed.shut()
