"""An attempt as the database stores it."""

from datetime import datetime

import msgspec

from muster.agent_manager.tasks.domain.states import LIVE
from muster.common.contracts.sandbox_log import Outcome
from muster.common.contracts.tasks import AttemptState


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.attempts`. Each time is when the manager first knew of that state."""

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
    """The attempt ended together with its host, as at a shutdown. It does not count as a try."""
    isolation: str = "unknown"
    """The isolation of its sandbox; `unknown` until the log of the sandbox begins."""

    @property
    def live(self) -> bool:
        """Whether the attempt holds the live epoch of its task."""
        return self.state in LIVE
