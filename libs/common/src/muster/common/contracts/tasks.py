"""Tasks and their attempts: the requests to the agent manager (`task.manager.*`) and the events of its outbox."""

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

from muster.common.contract import Command, Event, Message, raw
from muster.common.contracts.fields import storable, visible
from muster.common.contracts.model_calls import Limit, ModelFailed
from muster.common.contracts.task_spec import Deliver, TaskSpec

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
FEED_ENDS: Final = frozenset[TaskState]({"completed", "failed", "cancelled", "escalated"})
"""The states of a task in which the feed of the task ends."""
AttemptState = Literal["intent", "creating", "running", "finished", "lost", "fenced"]


class AttemptView(Message):
    """One attempt at a task."""

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
    """US dollars for model calls with a known price."""
    unpriced_calls: int = 0
    """The number of model calls whose price is unknown."""
    limit: Limit | None = None
    """The limit of the task that ended the attempt."""
    model_failure: ModelFailed | None = None
    """The last model call of the attempt, if it failed."""
    isolation: str = "unknown"
    """The isolation according to the sandbox's log: `bubblewrap`, or `plain` for none."""


class Delivery(Message):
    """The delivery of a task's accepted result. `pending` is tried again until it has an outcome."""

    state: Literal["pending", "delivered", "failed"]
    branch: str
    accepted_at: datetime
    """The time at which the result was accepted, which is also the time of its commit."""
    commit: str | None = None
    url: str | None = None
    """The address of the pull request or merge request."""
    error: str | None = None
    asked_at: datetime | None = None
    """The time of the last request to deliver the result afterwards; None if the task asked for the delivery."""
    unpushed: bool = False
    """Whether the branch itself was refused, so that nothing was pushed and another branch may be named."""


class TaskView(TaskSpec):
    """A task as the agent manager shows it. `version` counts its changes."""

    task_id: str
    agent_id: str | None
    """The agent of the newest attempt; before the first attempt, the agent that the submitter named."""
    wanted_agent_id: str | None = None
    """The agent that the submitter named; None if Muster chooses the agent."""
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
    limit: Limit | None = None
    """The limit that ended the task."""
    base_commit: str | None = None
    """The commit of the repository that the diff applies to."""
    delivery: Delivery | None = None


class SubmitTask(Command[TaskView], TaskSpec, subject="task.manager.command.submit", omit_defaults=True):
    """Queue a task. Idempotent by `task_id`, which the API creates."""

    task_id: str
    agent_id: str | None = None
    package: str | None = None
    model: Annotated[str, visible(255)] | None = None
    project: Annotated[str, storable(255, least=0)] = "default"


class GetTask(Command[TaskView], subject="task.manager.query.get"):
    """Return one task with all its attempts."""

    task_id: str


class SandboxAttempt(Message):
    """The attempt that runs in a sandbox. `opened_at` is the start of the sandbox's log.

    `opened_at` is None until the agent manager sees the log.
    """

    sandbox_id: str
    task_id: str
    epoch: int
    state: AttemptState
    opened_at: datetime | None = None


class GetSandboxAttempt(Command[SandboxAttempt], subject="task.manager.query.sandbox"):
    """Return the attempt of a sandbox, also long after the gateway has deleted the sandbox."""

    sandbox_id: str


class TaskPage(Message):
    """Tasks, newest first. `next_cursor` continues after the last task of the page.

    A list contains no diffs. It shortens long texts (objective, test command, summary, error, validation, reasons) to
    1,000 characters with `…` at the end. A page may contain fewer tasks than requested, so that the reply fits into one
    NATS message.
    """

    tasks: list[TaskView]
    next_cursor: str | None = None


class ListTasks(Command[TaskPage], subject="task.manager.query.list"):
    """Return the tasks that match all given filters, newest first."""

    state: TaskState | None = None
    project: str | None = None
    labels: dict[str, str] = {}
    cursor: str | None = None
    limit: int = 50


class EpochAnswer(Message):
    """The result of a request about an epoch. `moot` means that the epoch was no longer the live one of its task."""

    task_id: str
    epoch: int
    result: Literal["replacing", "ended", "moot"]


class ReplaceAttempt(Command[EpochAnswer], subject="task.manager.command.replace"):
    """End an epoch that must not continue, and start a new attempt at its task. Only the agent manager can do so.

    Other services send this command to request it.
    """

    task_id: str
    epoch: int
    reason: str
    decision_id: str | None = None


class ReportExit(Command[EpochAnswer], subject="task.manager.command.report-exit"):
    """The gateway reports that a worker exited without a result, or could not be started."""

    task_id: str
    sandbox_id: str
    epoch: int
    exit_code: int | None
    reason: str
    final: bool = False
    """The worker was refused, not lost: every other attempt would be refused too."""
    interrupted: bool = False
    """The worker ended because its shim stopped or lost its lease, so the exit does not count as an attempt."""


class CancelTask(Command[TaskView], subject="task.manager.command.cancel"):
    """End a task permanently."""

    task_id: str
    reason: str = "cancelled by request"


class DeliverTask(Command[TaskView], Deliver, subject="task.manager.command.deliver", omit_defaults=True):
    """Deliver the accepted result of a task that has ended. Returns at once; `delivery` shows the outcome later.

    Idempotent: a task has one branch and one pull request. A delivery that has failed is tried again.
    """

    task_id: str


class TaskChanged(Event, subject="task.{task_id}.event.{kind}"):
    """A change of a task. The agent manager publishes these events in order of `version` from its outbox.

    The stream is `TASKS`, and `event_id` is the message id.
    """

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
