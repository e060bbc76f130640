"""Decides when a task's feed is complete: the task and its sandbox logs have ended, and late events have arrived."""

from datetime import datetime

from muster.common.contracts.tasks import FEED_ENDS, TaskChanged, TaskState

BEFORE_RUNNING: frozenset[TaskState] = frozenset({"blocked", "queued", "assigned"})
QUIET_S = 0.5
"""Seconds without an event after which an ended feed is complete. The guardian's last events follow the task's end."""
SETTLE_S = 5.0
"""Seconds after the task's end for which the feed waits for a sandbox log that has not ended."""


class FeedEnd:
    """The state from which the end of a task's feed is decided. Times are wall-clock times."""

    def __init__(self) -> None:
        self.state: TaskState | None = None
        self._version = self._told = self._begun = 0
        self._ended_at: datetime | None = None
        self._open: set[str] = set()

    def starts_as(self, state: TaskState, version: int, at: datetime) -> None:
        """Record the task's state at the time when the feed was opened."""
        self._take(state, version, at)

    def told(self, changed: TaskChanged) -> None:
        """Record an event of the task. The event may be stored before or after the client's cursor."""
        self._told = max(self._told, changed.version)
        epoch = changed.epoch or 0
        self._begun = max(self._begun, epoch - 1 if changed.state in BEFORE_RUNNING else epoch)
        self._take(changed.state, changed.version, changed.at)

    def has_begun(self, epoch: int) -> bool:
        """Return whether an event of the task shows that the attempt with this epoch has started to run."""
        return epoch <= self._begun

    def follows(self, sandbox_id: str) -> None:
        """Record that the feed reads the log of a sandbox, so that the feed's end waits for the log's end."""
        self._open.add(sandbox_id)

    def log_ended(self, sandbox_id: str) -> None:
        """Record that the log of a sandbox has ended with a terminal frame."""
        self._open.discard(sandbox_id)

    def _take(self, state: TaskState, version: int, at: datetime) -> None:
        if version < self._version:
            return
        self._version, self.state = version, state
        self._ended_at = at if state in FEED_ENDS else None

    @property
    def task_ended(self) -> bool:
        """Whether the task is in a final state."""
        return self._ended_at is not None

    def reached(self, now: datetime, *, quiet_s: float) -> bool:
        """Return whether the feed is complete.

        `now` is the present time, and `quiet_s` is the number of seconds since the feed's last event.
        """
        if self._ended_at is None:
            return False
        age_s = (now - self._ended_at).total_seconds()
        all_here = self._told >= self._version and not self._open
        return age_s >= SETTLE_S or (all_here and quiet_s >= QUIET_S)
