"""When a failed process is started again: at once after the first failure, then after 1, 2, 4 … s, then no more."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

MOST, WITHIN = 5, timedelta(seconds=60)
"""More failures than this within this many seconds are too many (Erlang's rule, as in `muster.common.supervision`)."""
LONGEST: Final = timedelta(seconds=30)


def used_up(failures: Sequence[datetime]) -> bool:
    """Return whether the last failures (times, oldest first) came too fast. The answer depends on the times alone."""
    return len(failures) >= MOST and failures[-1] - failures[-MOST] < WITHIN


def due(failures: Sequence[datetime]) -> datetime:
    """Return when to start again after the last of these failures, of which there is at least one."""
    last = failures[-1]
    recent = sum(1 for failure in failures if last - failure < WITHIN)
    return last if recent <= 1 else last + min(LONGEST, timedelta(seconds=2.0 ** (recent - 2)))
