"""The clock of intervals in minutes (auto-stop, auto-delete, time to live), which a test can set.

Changes of state in seconds do not use this clock, but the time of the event loop.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

type DoubleClock = Callable[[], datetime]


def system_clock() -> datetime:
    """Return the time of this machine, in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - this package imports no other package of Muster, so it has its own clock


def rfc3339(moment: datetime) -> str:
    """Return the moment as Daytona writes it: milliseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ManualClock:
    """A clock that stands still until `advance` is called. Any thread may call it."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or system_clock()
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        """Return the clock's time."""
        with self._lock:
            return self._now

    def advance(self, *, minutes: float) -> None:
        """Move the clock forward. What is due then happens before the next answer, or within a quarter of a second."""
        with self._lock:
            self._now += timedelta(minutes=minutes)
