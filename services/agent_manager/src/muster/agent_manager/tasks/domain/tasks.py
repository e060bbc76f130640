"""A task as it is stored, and the order in which tasks get their turn."""

from datetime import datetime
from typing import Any, Final

import msgspec

from muster.common.contracts.gateway import Repo
from muster.common.contracts.tasks import Priority, TaskState

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
    objective: str
    repo: Repo | None
    test_command: str | None
    paths: list[str]
    timeout_s: float
    priority: Priority
    project: str
    labels: dict[str, str]
    depends_on: list[str]
    ticket_id: str | None
    phase_id: str | None
    metadata: dict[str, Any]
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
