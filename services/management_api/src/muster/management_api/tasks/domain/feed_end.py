"""When a feed is complete: the task has ended, its logs have, and what trails behind has arrived."""

from datetime import datetime

from muster.common.contracts.tasks import TaskChanged, TaskState

TERMINAL: frozenset[TaskState] = frozenset({"completed", "failed", "cancelled", "escalated"})
BEFORE_RUNNING: frozenset[TaskState] = frozenset({"blocked", "queued", "assigned"})
QUIET_S = 0.5
"""The guardian's last words on a task follow its end by moments."""
SETTLE_S = 5.0
"""How long after the task's end a log that does not end is waited for."""


class FeedEnd:
    """Watches a feed go by. Times are wall-clock times."""

    def __init__(self) -> None:
        self.state: TaskState | None = None
        self._version = self._told = self._begun = 0
        self._ended_at: datetime | None = None
        self._open: set[str] = set()

    def starts_as(self, state: TaskState, version: int, at: datetime) -> None:
        """The task as its owner had it when the feed was opened."""
        self._take(state, version, at)

    def told(self, changed: TaskChanged) -> None:
        """A task event went by, here or before the place where the reader goes on."""
        self._told = max(self._told, changed.version)
        epoch = changed.epoch or 0
        self._begun = max(self._begun, epoch - 1 if changed.state in BEFORE_RUNNING else epoch)
        self._take(changed.state, changed.version, changed.at)

    def has_begun(self, epoch: int) -> bool:
        """Whether it was told that this attempt runs, or more than that."""
        return epoch <= self._begun

    def follows(self, sandbox_id: str) -> None:
        """This sandbox's log belongs to the feed."""
        self._open.add(sandbox_id)

    def log_ended(self, sandbox_id: str) -> None:
        """A terminal frame of it went by."""
        self._open.discard(sandbox_id)

    def _take(self, state: TaskState, version: int, at: datetime) -> None:
        if version < self._version:
            return
        self._version, self.state = version, state
        self._ended_at = at if state in TERMINAL else None

    @property
    def task_ended(self) -> bool:
        """Whether the task is in a state it does not leave by itself."""
        return self._ended_at is not None

    def reached(self, now: datetime, *, quiet_s: float) -> bool:
        """Whether nothing more is to be expected, `quiet_s` seconds after the last event."""
        if self._ended_at is None:
            return False
        age_s = (now - self._ended_at).total_seconds()
        all_here = self._told >= self._version and not self._open
        return age_s >= SETTLE_S or (all_here and quiet_s >= QUIET_S)
