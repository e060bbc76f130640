"""The requests to the sandbox gateway (`sandbox.gateway.command|query.*`), its replies and its events."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

from muster.common.contract import Command, Event, Message
from muster.common.contracts.attempts import PreviousAttempt, UsedSoFar
from muster.common.contracts.packages import Resources
from muster.common.contracts.task_spec import Deliver, Network, Repo, TaskSpec

SandboxState = Literal["creating", "running", "stopping", "stopped", "deleted", "error", "lost", "fenced"]


class SandboxView(Message):
    """A sandbox, as shown by the gateway that runs the sandbox."""

    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int
    state: SandboxState
    provider: str
    isolation: str
    package: str
    model: str
    created_at: datetime
    pid: int | None = None
    exit_code: int | None = None
    next_seq: int | None = None
    error: str | None = None
    preparing_at: datetime | None = None
    """When a gateway last said that it makes the sandbox, or waits to make it. Said every 20 s."""
    waiting: str | None = None
    """The reason why the sandbox has not started yet, such as a quota. The gateway tries again by itself."""
    start_s: float | None = None
    """Seconds from the launch of the worker to its first event; None if the worker has not said that it is ready."""
    private_bytes: int | None = None
    """Memory that only the sandbox's processes use, in bytes. Measured from time to time."""
    not_forked: str | None = None
    """Why the worker was started without the fork server of its package; None if it was forked, or is not meant to."""
    seconds: float | None = None
    """Time for which the sandbox has run at its provider so far, until it is stopped or deleted there."""
    sandbox_cost_usd: Decimal | None = None
    """Cost of the sandbox so far, without its model calls; None if its price is unknown."""
    model_cost_usd: Decimal | None = None
    """Cost of the sandbox's model calls so far, as far as this gateway knows it."""
    cost_usd: Decimal | None = None
    """The sum of both costs, as far as they are known."""
    rest_since: datetime | None = None
    """When the gateway saw that the worker has ended. The sandbox is kept from then on until it is deleted."""
    suspended_at: datetime | None = None
    """When the sandbox was stopped at its provider; None while it runs there."""
    limits: Resources | None = None
    """The limits of the worker, if its provider holds them."""
    limited_by: str | None = None
    """What holds the limits: `cgroup`, `rlimits` (limits of each process, and measurements), or another provider."""
    exceeded: str | None = None
    """The limit that the worker exceeded, for which it was ended."""


class SandboxAccepted(Message):
    """The gateway has stored the request. The sandbox's log shows the progress."""

    sandbox_id: str
    state: SandboxState


class CreateSandbox(Command[SandboxAccepted], TaskSpec, subject="sandbox.gateway.command.create"):
    """Create a sandbox and start its worker. Idempotent by `sandbox_id`."""

    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int
    conversation_id: str
    package: str
    model: str
    previous: PreviousAttempt | None = None
    used: UsedSoFar = UsedSoFar()


class Startable(Message):
    """The reply to `CheckSandbox`: the gateway knows no reason why the sandbox could not start."""


class CheckSandbox(Command[Startable], subject="sandbox.gateway.query.check"):
    """Ask whether a gateway could start a sandbox with these settings.

    If the sandbox could never start, the gateway refuses with 422, the name of the field and a sentence. `model` is set
    only if the package's worker calls a model.
    """

    package: str
    model: str | None = None
    repo: Repo | None = None
    deliver: Deliver | None = None
    provider: str | None = None
    max_cost_usd: float | None = None
    network: Network | None = None


class Delivered(Message):
    """The reply to `DeliverResult`: the branch contains the commit, and the pull request (if asked for) is open."""

    commit: str
    url: str | None = None


class DeliverResult(Command[Delivered], subject="sandbox.gateway.command.deliver"):
    """Commit an accepted result onto a branch of its repository, push it, and open a pull request if asked for.

    Idempotent by `task_id`: the same result becomes the same commit, and a task has one branch and one pull request.
    """

    task_id: str
    repo: Repo
    deliver: Deliver
    branch: str
    base: str
    diff: str
    accepted_at: datetime
    title: str
    summary: str = ""
    validation: str = ""


class FenceSandbox(Command[SandboxAccepted], subject="sandbox.gateway.command.fence"):
    """End the epoch in the sandbox's log. After the reply, nothing of that epoch can be stored.

    Idempotent. Also works for a sandbox that does not exist yet.
    """

    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int
    reason: str


class Evidence(Message):
    """The evidence collected before a sandbox is stopped.

    `missing` lists the parts that could not be collected, with reasons (invariant I8).
    """

    sandbox_id: str
    at: datetime
    next_seq: int
    exit_code: int | None
    output_tail: str
    unsent: int | None
    missing: list[str] = []


class CollectEvidence(Command[Evidence], subject="sandbox.gateway.query.evidence"):
    """Collect the evidence of a sandbox: the end of its output, and its events on disk that are not in the log."""

    sandbox_id: str


class StopSandbox(Command[SandboxAccepted], subject="sandbox.gateway.command.stop"):
    """Stop a sandbox's worker: send TERM, wait `grace_s` seconds, then KILL all its processes. Idempotent."""

    sandbox_id: str
    grace_s: float = 5.0


class DeleteSandbox(Command[SandboxAccepted], subject="sandbox.gateway.command.delete"):
    """Stop the worker, close the log unless it has ended, and delete the workspace. Idempotent.

    Succeeds also if the sandbox does not exist any more.
    """

    sandbox_id: str
    reason: str = "done"


class SandboxOutput(Message):
    """The result of a shell command. `output` is the last part of stdout and stderr together."""

    exit_code: int
    output: str
    seconds: float


class ExecInSandbox(Command[SandboxOutput], subject="sandbox.gateway.command.exec"):
    """Run a shell command in the sandbox's workspace. A repeated `key` does not run the command again."""

    sandbox_id: str
    key: str
    command: str
    timeout_s: float = 60.0


class MessageStored(Message):
    """The reply to `SendMessage`: the steering message is in the sandbox's inbox at `position`."""

    message_id: str
    position: int


class SendMessage(Command[MessageStored], subject="sandbox.gateway.command.message"):
    """Put a steering message into a sandbox's inbox.

    Idempotent by `message_id`. Refused with 410 if the epoch has ended.
    """

    sandbox_id: str
    message_id: str
    epoch: int
    kind: Literal["steer", "control"] = "steer"
    urgent: bool = False
    text: str
    sender: str
    expires_at: datetime


class GetSandbox(Command[SandboxView], subject="sandbox.gateway.query.get"):
    """Return one sandbox by its id."""

    sandbox_id: str


class SandboxPage(Message):
    """Sandboxes, newest first. Long error texts are shortened. `GetSandbox` returns the full text."""

    sandboxes: list[SandboxView]


class ListSandboxes(Command[SandboxPage], subject="sandbox.gateway.query.list"):
    """Return the sandboxes of all gateways, or those of one task: as many as fit into one reply."""

    task_id: str | None = None


LOG_GONE = "the log is gone: this sandbox had one, and it has no frame now (deleted, or lost with its server)"
"""The fault of a sandbox whose log existed and is empty now."""


class Verdict(Message):
    """The result of verifying a sandbox's log. `ok` is true if `faults` is empty."""

    sandbox_id: str
    ok: bool
    frames: int
    events: int
    epoch: int
    ended: str | None
    faults: list[str] = []
    gaps: list[str] = []
    payloads: int = 0
    """The number of whole bodies of events that are kept outside of the log and were verified."""


class VerifySandbox(Command[Verdict], subject="sandbox.gateway.query.verify"):
    """Read and verify a sandbox's whole log: each seq once and in order, one epoch, nothing after the end (I2, I4).

    It is a fault if the log is missing although the sandbox had one.
    """

    sandbox_id: str


class GatewayAlive(Event, subject="sandbox.gateway.event.alive"):
    """A heartbeat of a gateway, every 2 s. While no gateway sends any, the guardian treats no worker as silent."""

    instance: str
    at: datetime


class SandboxBeat(Event, subject="sandbox.{partition}.{sandbox_id}.beat"):
    """A worker's heartbeat, passed on by its gateway. Stream `BEATS`, one message per sandbox; `at` is gateway time."""

    partition: str
    sandbox_id: str
    task_id: str
    epoch: int
    at: datetime
    state: Literal["idle", "running", "waiting", "stopping"]
    busy: Literal["tool", "model", "model_retry", "none"]
    since: datetime
    events: int
    acked: int
