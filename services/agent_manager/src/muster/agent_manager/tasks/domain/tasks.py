"""A task as it is stored, and the order in which tasks get their turn."""

from datetime import datetime
from typing import Final

import msgspec

from muster.common.contracts.task_spec import Priority, TaskSpec
from muster.common.contracts.tasks import TaskState

RANK: Final[dict[Priority, int]] = {"CRITICAL": 0, "HIGH": 1, "NORMAL": 2, "LOW": 3}


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.tasks`. `epoch` is that of its newest attempt, 0 before the first."""

    task_id: str
    agent_id: str | None
    """The agent of its newest attempt; before the first, the wanted agent."""
    wanted_agent_id: str | None
    """The agent that its submission named: every attempt is that agent's. None: any agent of the package."""
    package: str
    model: str
    spec: TaskSpec
    """What its submitter wrote."""
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


def turn(priority: Priority, waited_s: float, ageing_s: float) -> int:
    """Lower goes first. Each `ageing_s` of waiting lifts a task by one class: the bound on starvation."""
    return max(0, RANK[priority] - int(waited_s // ageing_s))
