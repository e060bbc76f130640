"""The times at which a failed agent is restarted: after its first failure at once, then after 1, 2, 4 … seconds.

Five failures within 60 seconds end the restarts until the next command.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

MOST, WITHIN = 5, timedelta(seconds=60)
"""This many failures within this time end the restarts (Erlang's rule, as in `muster.common.supervision`)."""
LONGEST: Final = timedelta(seconds=30)


def used_up(failures: Sequence[datetime]) -> bool:
    """Return whether the last 5 failures happened within 60 s; `failures` are their times, oldest first."""
    return len(failures) >= MOST and failures[-1] - failures[-MOST] < WITHIN


def due(failures: Sequence[datetime]) -> datetime:
    """Return the time of the next start after these failures (times, oldest first; at least one)."""
    last = failures[-1]
    recent = sum(1 for failure in failures if last - failure < WITHIN)
    return last if recent <= 1 else last + min(LONGEST, timedelta(seconds=2.0 ** (recent - 2)))
