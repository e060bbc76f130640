"""The system clock. Code receives a `Clock` as an argument, so that tests can replace it."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the current time in UTC, with its time zone."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Return a time in UTC with microseconds, for example `2026-11-21T01:02:03.000004Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
