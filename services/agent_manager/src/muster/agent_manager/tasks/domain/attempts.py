"""An attempt as it is stored."""

from datetime import datetime

import msgspec

from muster.agent_manager.tasks.domain.states import LIVE
from muster.common.contracts.sandbox_log import Outcome
from muster.common.contracts.tasks import AttemptState


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.attempts`. Times are when that state was first known."""

    attempt_id: str
    task_id: str
    epoch: int
    agent_id: str
    sandbox_id: str
    conversation_id: str
    state: AttemptState
    reason: str | None
    exit_code: int | None
    outcome: Outcome | None
    tokens: int
    model_calls: int
    cost_usd: float
    created_at: datetime
    creating_at: datetime | None
    opened_at: datetime | None
    deadline: datetime | None
    ended_at: datetime | None
    sandbox_deleted_at: datetime | None
    interrupted: bool
    """Ended with its place, as at a shutdown: it does not count as a try."""
    isolation: str = "unknown"
    """Of its sandbox; unknown until that is opened."""

    @property
    def live(self) -> bool:
        """Whether it holds its task's live epoch."""
        return self.state in LIVE
