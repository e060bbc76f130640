"""The record of a task as stored in the database, and the order in which waiting tasks are dispatched."""

from datetime import datetime
from typing import Final

import msgspec

from muster.common.contracts.model_calls import Limit
from muster.common.contracts.task_spec import Priority, TaskSpec
from muster.common.contracts.tasks import Delivery, TaskState

RANK: Final[dict[Priority, int]] = {"CRITICAL": 0, "HIGH": 1, "NORMAL": 2, "LOW": 3}


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.tasks`. `epoch` is the epoch of the task's newest attempt, or 0 before the first attempt."""

    task_id: str
    agent_id: str | None
    """The agent of the newest attempt; before the first attempt, the wanted agent."""
    wanted_agent_id: str | None
    """The agent that the submitter named; only this agent gets the attempts. None: any agent of the package."""
    package: str
    model: str
    spec: TaskSpec
    """The task's specification as the submitter sent it. A later delivery of the result changes `deliver`."""
    project: str
    state: TaskState
    version: int
    epoch: int
    sandbox_id: str | None
    conversation_id: str | None
    persistence_dir: str | None
    created_at: datetime
    updated_at: datetime
    summary: str | None = None
    diff: str | None = None
    error: str | None = None
    validation: str | None = None
    reached_limit: Limit | None = None
    """The limit that ended the task."""
    base_commit: str | None = None
    """The commit of the repository that the diff applies to."""
    delivery: Delivery | None = None
    """The delivery of the accepted result; None if it has not begun, or the task asks for none."""


def turn(priority: Priority, waited_s: float, ageing_s: float) -> int:
    """Return the rank of a waiting task; lower ranks start first. Each `ageing_s` seconds of waiting subtract 1."""
    return max(0, RANK[priority] - int(waited_s // ageing_s))
