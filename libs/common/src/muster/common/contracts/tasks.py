"""Tasks and their attempts: what the agent manager is asked (`task.manager.*`) and what its outbox tells."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from muster.common.contract import Command, Event, Message, raw
from muster.common.contracts.fields import storable, visible
from muster.common.contracts.task_spec import TaskSpec

TaskState = Literal[
    "blocked",
    "queued",
    "assigned",
    "running",
    "validating",
    "completed",
    "retrying",
    "failed",
    "cancelled",
    "escalated",
]
AttemptState = Literal["intent", "creating", "running", "finished", "lost", "fenced"]


class AttemptView(Message):
    """One try at a task."""

    attempt_id: str
    epoch: int
    sandbox_id: str
    state: AttemptState
    created_at: datetime
    ended_at: datetime | None = None
    reason: str | None = None
    exit_code: int | None = None
    tokens: int = 0
    model_calls: int = 0
    cost_usd: float = 0.0
    isolation: str = "unknown"
    """As the log of its sandbox says: `bubblewrap`, or `plain` for none."""


class TaskView(TaskSpec):
    """A task as its owner shows it. `version` counts its changes."""

    task_id: str
    agent_id: str | None
    package: str
    model: str
    project: str
    state: TaskState
    version: int
    created_at: datetime
    updated_at: datetime
    attempts: list[AttemptView] = []
    summary: str | None = None
    diff: str | None = None
    error: str | None = None
    validation: str | None = None


class SubmitTask(Command[TaskView], TaskSpec, subject="task.manager.command.submit"):
    """Queue a piece of work. Idempotent by `task_id`, which the API mints."""

    task_id: str
    agent_id: str | None = None
    package: str | None = None
    model: Annotated[str, visible(255)] | None = None
    project: Annotated[str, storable(255, least=0)] = "default"


class GetTask(Command[TaskView], subject="task.manager.query.get"):
    """One task with all its attempts."""

    task_id: str


class SandboxAttempt(Message):
    """The attempt that a sandbox was made for. `opened_at`: when its log began; none while the manager saw no log."""

    sandbox_id: str
    task_id: str
    epoch: int
    state: AttemptState
    opened_at: datetime | None = None


class GetSandboxAttempt(Command[SandboxAttempt], subject="task.manager.query.sandbox"):
    """The attempt of a sandbox, also long after its gateway has forgotten it."""

    sandbox_id: str


class TaskPage(Message):
    """Tasks, newest first; `next_cursor` continues after the last one.

    A list shows no diffs and shortens long texts (objective, test command, summary, error, validation, reasons) to
    1,000 characters, the last of them `…`. A page may hold fewer tasks than were asked for, to fit into one reply.
    """

    tasks: list[TaskView]
    next_cursor: str | None = None


class GetTasks(Command[TaskPage], subject="task.manager.query.several"):
    """Some tasks at once, at most 100, each whole and with all its attempts.

    An id without a task has no answer here, nor has a task that does not fit into the reply: `GetTask` answers.
    """

    task_ids: list[str]


class ListTasks(Command[TaskPage], subject="task.manager.query.list"):
    """Tasks that match every filter given, newest first."""

    state: TaskState | None = None
    project: str | None = None
    labels: dict[str, str] = {}
    cursor: str | None = None
    limit: int = 50


class EpochAnswer(Message):
    """What became of a request about an epoch: `moot` when it was no longer the live one."""

    task_id: str
    epoch: int
    result: Literal["replacing", "ended", "moot"]


class ReplaceAttempt(Command[EpochAnswer], subject="task.manager.command.replace"):
    """End an epoch that should go on no longer, and try again. Only the manager may; others ask."""

    task_id: str
    epoch: int
    reason: str
    decision_id: str | None = None


class ReportExit(Command[EpochAnswer], subject="task.manager.command.report-exit"):
    """The gateway's word that a worker ended without `finished` or could not be started."""

    task_id: str
    sandbox_id: str
    epoch: int
    exit_code: int | None
    reason: str
    final: bool = False
    """It was refused, not lost: every other attempt would be too."""
    interrupted: bool = False
    """It ended with its place, as at a shutdown: it says nothing of the task and counts as no attempt at it."""


class CancelTask(Command[TaskView], subject="task.manager.command.cancel"):
    """End a task for good."""

    task_id: str
    reason: str = "cancelled by request"


class TaskChanged(Event, subject="task.{task_id}.event.{kind}"):
    """A task changed, told by the outbox in order of `version`. Stream `TASKS`; `event_id` is the message id."""

    task_id: str
    kind: str
    event_id: str
    version: int
    at: datetime
    state: TaskState
    epoch: int | None = None
    sandbox_id: str | None = None
    agent_id: str | None = None
    body: msgspec.Raw = raw(b"{}")
