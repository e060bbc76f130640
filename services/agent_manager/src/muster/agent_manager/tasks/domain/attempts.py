"""The record of an attempt, one try at a task, as stored in the database."""

from datetime import datetime

import msgspec

from muster.agent_manager.tasks.domain.states import LIVE
from muster.common.contracts.model_calls import Limit, ModelFailed
from muster.common.contracts.sandbox_log import Outcome
from muster.common.contracts.tasks import AttemptState


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.attempts`. Each time is the moment when the manager stored that state of the attempt."""

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
    """True if the attempt ended because its host shut down. Such an attempt does not count as a try."""
    isolation: str = "unknown"
    """The isolation of the attempt's sandbox; `unknown` until the log of the sandbox begins."""
    reached_limit: Limit | None = None
    """The limit of the task that ended the attempt."""
    question: bool = False
    """True if the agent ended its run with a question."""
    model_failure: ModelFailed | None = None
    """The last model call of the attempt, if it failed."""
    last_model_step: int = 0
    """The number of the model call that `model_failure` is about."""
    unpriced_calls: int = 0
    """The number of model calls whose price is unknown."""

    @property
    def live(self) -> bool:
        """Whether the attempt has not ended, so that its epoch is the live epoch of its task."""
        return self.state in LIVE
