"""Restart intensity of an agent's process: at once after a first failure, then 1, 2, 4 … seconds, then not any more."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

MOST, WITHIN = 5, timedelta(seconds=60)
"""So many failures within so long are too many (Erlang's rule, as in `muster.common.supervision`)."""
LONGEST: Final = timedelta(seconds=30)


def used_up(failures: Sequence[datetime]) -> bool:
    """Whether the last failures (their times, oldest first) came too fast; of the times alone, so it stays so."""
    return len(failures) >= MOST and failures[-1] - failures[-MOST] < WITHIN


def due(failures: Sequence[datetime]) -> datetime:
    """When to start again after the last of these failures. There is at least one."""
    last = failures[-1]
    recent = sum(1 for failure in failures if last - failure < WITHIN)
    return last if recent <= 1 else last + min(LONGEST, timedelta(seconds=2.0 ** (recent - 2)))
