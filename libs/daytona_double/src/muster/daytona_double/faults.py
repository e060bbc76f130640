"""Faults: what the double does wrong on purpose, by name, and how often.

A fault is in force until its `times` are used up or until it is cleared; with `chance` it strikes at random. The random
numbers have a seed, so that a run with the same requests has the same faults. Any thread may set and clear faults.
"""

import random
import threading
from collections import Counter
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter

EVERY_ROUTE = "*"
NAMES = {
    "lost-create": "A sandbox is created, but the connection is closed without an answer.",
    "rate-limit": "A request is refused with 429, and with `Retry-After` if `retry_after` has a value.",
    "quota": "A create or start is refused with 400 and the text 'Total CPU limit exceeded'.",
    "conflict": "A change of a sandbox's state is refused with 409.",
    "unauthorized": "A request is refused with 401, as after the key was replaced.",
    "unavailable": "A request is refused with 503.",
    "drop": "A request is done, but the connection is closed without an answer.",
    "slow": "A request waits `seconds` before it is done.",
    "download-502": "A download is refused with 502 and a page of HTML.",
    "cut-download": "A download ends in the middle of a file, and the connection is closed.",
    "cut-upload": "The connection of an upload is closed after half of the body; no file is written.",
    "short-upload": "An upload writes half of each file, and is answered as if it had written all.",
    "stuck-destroying": "A sandbox that is deleted stays in the state `destroying`.",
    "vanish": "The sandbox of a request disappears before the request is done.",
    "error-state": "A sandbox ends in the state `error` instead of `started`; `recoverable` says whether it recovers.",
    "no-exit-code": "A command of a session ends, but its exit code is never reported.",
    "drop-logs": "The WebSocket of a followed log is closed with 1011 after the first message.",
}
"""Every fault's name and effect."""
CHANGES = ("POST /sandbox/*/*", "DELETE /sandbox/*")


@dataclass(frozen=True, kw_only=True)
class InjectedFault:
    """One fault in force. `route` is a pattern of a method and a path below the API's or the toolbox's URL."""

    name: str
    times: int | None = None
    """How often the fault strikes; None means until it is cleared."""
    chance: float = 1.0
    """The probability with which the fault strikes a request that it fits."""
    route: str = EVERY_ROUTE
    """For example `POST /sandbox`, `GET /sandbox*` or `* /process/*`."""
    sandbox: str | None = None
    """The id or name of the only sandbox that the fault strikes; None means every sandbox."""
    seconds: float = 0.0
    """How long `slow` waits."""
    retry_after: int | None = None
    """Seconds in the header `Retry-After` of `rate-limit` and `unavailable`."""
    recoverable: bool = True
    """Whether the state of `error-state` is recoverable."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"no fault is called {self.name!r}; there are: {', '.join(NAMES)}")


_OPTIONS = TypeAdapter(InjectedFault)
_LISTED = TypeAdapter(list[InjectedFault])


def parsed(text: str) -> InjectedFault:
    """Read a fault from a command line: `NAME` or `NAME=OPTION:VALUE,OPTION:VALUE`.

    Raises ValueError for an unknown name, option or value.
    """
    name, _, rest = text.partition("=")
    pairs = [part.partition(":") for part in rest.split(",") if part]
    options = {option: value for option, _, value in pairs}
    if unknown := set(options) - {field.name for field in fields(InjectedFault)}:
        raise ValueError(f"the fault {name} has no option {min(unknown)!r}")
    return _OPTIONS.validate_python({"name": name, **options})


def read_faults(path: Path) -> list[InjectedFault]:
    """Read a JSON list of faults, such as `[{"name": "rate-limit", "times": 3}]`."""
    return _LISTED.validate_json(path.read_bytes())


class Faults:
    """The faults in force, and how often each has struck."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret depends on it
        self._lock = threading.Lock()
        self._left: dict[InjectedFault, int | None] = {}
        self._struck: Counter[str] = Counter()

    def set(self, fault: str | InjectedFault, **options: object) -> None:
        """Put a fault in force, in addition to those already in force.

        `options` are the fields of `InjectedFault`. Raises ValueError for an unknown name or a wrong value.
        """
        made = fault if isinstance(fault, InjectedFault) else _OPTIONS.validate_python({"name": fault, **options})
        with self._lock:
            self._left[made] = made.times

    def clear(self, name: str | None = None) -> None:
        """End every fault of this name, or all faults."""
        with self._lock:
            self._left = {fault: left for fault, left in self._left.items() if name and fault.name != name}

    @property
    def in_force(self) -> list[InjectedFault]:
        """The faults that can still strike."""
        with self._lock:
            return list(self._left)

    @property
    def struck(self) -> dict[str, int]:
        """How often each fault has struck."""
        with self._lock:
            return dict(self._struck)

    def take(self, name: str, *, route: str = "", sandbox: tuple[str, ...] = ()) -> InjectedFault | None:
        """Return the fault of this name that strikes now, and count it; None if none does.

        `route` is the method and path of the request, and `sandbox` the id and name of its sandbox.
        """
        with self._lock:
            for fault, left in self._left.items():
                fits = fault.name == name and fnmatchcase(route, fault.route) and fault.sandbox in {None, *sandbox}
                if not fits or (fault.chance < 1 and self._random.random() >= fault.chance):
                    continue
                self._struck[name] += 1
                if left is not None:
                    self._use_up(fault, left)
                return fault
        return None

    def _use_up(self, fault: InjectedFault, left: int) -> None:
        if left > 1:
            self._left[fault] = left - 1
        else:
            del self._left[fault]

    def holds(self, name: str, *, sandbox: tuple[str, ...] = ()) -> bool:
        """Return whether a fault of this name is in force for this sandbox, without counting it."""
        with self._lock:
            return any(fault.name == name and fault.sandbox in {None, *sandbox} for fault in self._left)


def as_fields(fault: InjectedFault) -> dict[str, object]:
    """Return the fault as the object that `read_faults` reads."""
    return cast("dict[str, object]", _OPTIONS.dump_python(fault))
