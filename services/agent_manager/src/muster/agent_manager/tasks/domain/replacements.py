"""How an epoch is ended: the steps of a replacement, and what follows the last one."""

from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from muster.common.contracts.tasks import TaskState

Step = Literal["fence", "evidence", "stop", "reopen", "done"]
Then = Literal["retry", "fail", "cancel"]
Ends = Literal["lost", "fenced"]

STEPS: Final[tuple[Step, ...]] = ("fence", "evidence", "stop", "reopen", "done")


class ReplacementSaga(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.replacements`. `step` is the next one to do; `then` is what the asker wanted."""

    task_id: str
    epoch: int
    agent_id: str
    sandbox_id: str
    reason: str
    decision_id: str | None
    ends: Ends
    then: Then
    step: Step
    evidence: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None


def step_after(step: Step) -> Step:
    """The step that follows; `done` is followed by itself."""
    return STEPS[min(STEPS.index(step) + 1, len(STEPS) - 1)]


def reopened(then: Then, state: TaskState, tries: int, most_attempts: int) -> Literal["queued", "failed"] | None:
    """The task's state after the last step; `None` leaves it as it is (cancelled meanwhile, say)."""
    if then == "retry" and state == "retrying":
        return "queued" if tries < most_attempts else "failed"
    if then == "fail" and state in ("assigned", "running", "retrying"):
        return "failed"
    return None
