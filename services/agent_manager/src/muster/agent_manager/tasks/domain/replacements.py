"""The steps of a replacement, which ends the epoch (fencing number) of an attempt and may queue its task again.

```
fence ──▶ evidence ──▶ stop ──▶ reopen ──▶ done
```

Each step can run more than once with the same result, and its completion is stored. A manager that dies between two
steps leaves a row that names the next step; any replica continues with that step.
"""

from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from muster.common.contracts.tasks import TaskState

Step = Literal["fence", "evidence", "stop", "reopen", "done"]
Then = Literal["retry", "fail", "cancel"]
Ends = Literal["lost", "fenced"]

STEPS: Final[tuple[Step, ...]] = ("fence", "evidence", "stop", "reopen", "done")


class ReplacementSaga(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.replacements`. `step` is the next step; `then` is the requested effect on the task."""

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
    """Return the step of a replacement that follows `step`; the step after `done` is `done`."""
    return STEPS[min(STEPS.index(step) + 1, len(STEPS) - 1)]


def reopened(then: Then, state: TaskState, tries: int, most_attempts: int) -> Literal["queued", "failed"] | None:
    """Return the state of a task after the last step of a replacement, or None to leave the state unchanged."""
    if then == "retry" and state == "retrying":
        return "queued" if tries < most_attempts else "failed"
    if then == "fail" and state in ("assigned", "running", "retrying"):
        return "failed"
    return None
