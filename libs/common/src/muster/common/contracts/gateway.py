"""What the sandbox gateway is asked (`sandbox.gateway.command|query.*`) and what it tells."""

from datetime import datetime
from typing import Literal

from muster.common.contract import Command, Event, Message
from muster.common.contracts.task_spec import Repo, TaskSpec

SandboxState = Literal["creating", "running", "stopping", "stopped", "deleted", "error", "lost", "fenced"]


class SandboxView(Message):
    """A sandbox as its gateway knows it."""

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


class SandboxAccepted(Message):
    """The intent is stored; progress shows in the log."""

    sandbox_id: str
    state: SandboxState


class CreateSandbox(Command[SandboxAccepted], TaskSpec, subject="sandbox.gateway.command.create"):
    """Make a sandbox and start its worker. Idempotent by `sandbox_id`."""

    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int
    conversation_id: str
    package: str
    model: str


class Startable(Message):
    """Nothing is known that would keep such a sandbox from starting."""


class CheckSandbox(Command[Startable], subject="sandbox.gateway.query.check"):
    """Could such a sandbox be started here? Refused with a sentence and the field (422) where it never could.

    `model`: only where the package's worker will call one.
    """

    package: str
    model: str | None = None
    repo: Repo | None = None


class FenceSandbox(Command[SandboxAccepted], subject="sandbox.gateway.command.fence"):
    """End the epoch in the log: after this answer nothing of it is stored. Idempotent; a sandbox not yet born too."""

    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int
    reason: str


class Evidence(Message):
    """What could be had before the sandbox is stopped, and what could not, with why (I8)."""

    sandbox_id: str
    at: datetime
    next_seq: int
    exit_code: int | None
    output_tail: str
    unsent: int | None
    missing: list[str] = []


class CollectEvidence(Command[Evidence], subject="sandbox.gateway.query.evidence"):
    """Take the evidence of a sandbox: the tail of its output, and what it had on disk beyond the log."""

    sandbox_id: str


class StopSandbox(Command[SandboxAccepted], subject="sandbox.gateway.command.stop"):
    """Stop the worker: TERM, `grace_s` seconds, KILL of all its processes. Idempotent."""

    sandbox_id: str
    grace_s: float = 5.0


class DeleteSandbox(Command[SandboxAccepted], subject="sandbox.gateway.command.delete"):
    """Stop what runs, close the log unless it has ended, remove the workspace. Idempotent; gone is fine."""

    sandbox_id: str
    reason: str = "done"


class SandboxOutput(Message):
    """How a command ended. `output` is its end, both streams together."""

    exit_code: int
    output: str
    seconds: float


class ExecInSandbox(Command[SandboxOutput], subject="sandbox.gateway.command.exec"):
    """Run a shell command in the sandbox's workspace. The same `key` is the same process, run once."""

    sandbox_id: str
    key: str
    command: str
    timeout_s: float = 60.0


class MessageStored(Message):
    """The message is in the inbox, at `position`."""

    message_id: str
    position: int


class SendMessage(Command[MessageStored], subject="sandbox.gateway.command.message"):
    """Put a steering message into a sandbox's inbox. Idempotent by `message_id`; 410 once the epoch has ended."""

    sandbox_id: str
    message_id: str
    epoch: int
    kind: Literal["steer", "control"] = "steer"
    urgent: bool = False
    text: str
    sender: str
    expires_at: datetime


class GetSandbox(Command[SandboxView], subject="sandbox.gateway.query.get"):
    """One sandbox."""

    sandbox_id: str


class SandboxPage(Message):
    """Sandboxes, newest first. Long errors are shortened; `GetSandbox` has them whole."""

    sandboxes: list[SandboxView]


class ListSandboxes(Command[SandboxPage], subject="sandbox.gateway.query.list"):
    """All sandboxes the gateways know, or one task's: as many as fit into one reply."""

    task_id: str | None = None


LOG_GONE = "the log is gone: this sandbox had one, and it has no frame now (purged, or lost with its server)"
"""The fault of a sandbox that is known to have had a log."""


class Verdict(Message):
    """What a sandbox's log proves. `ok` only without faults."""

    sandbox_id: str
    ok: bool
    frames: int
    events: int
    epoch: int
    ended: str | None
    faults: list[str] = []
    gaps: list[str] = []


class VerifySandbox(Command[Verdict], subject="sandbox.gateway.query.verify"):
    """Read a sandbox's whole log: each seq once and in order, one epoch, nothing after its end (I2, I4).

    A log that is gone although its sandbox is known to have had one is a fault.
    """

    sandbox_id: str


class GatewayAlive(Event, subject="sandbox.gateway.event.alive"):
    """Every 2 s from each gateway: silence of a worker counts only while these arrive."""

    instance: str
    at: datetime


class ModelCalled(Event, subject="sandbox.{partition}.{sandbox_id}.model"):
    """One model call, metered. Stream `MODEL_CALLS`; `request_id` is its message id.

    `usage`: `measured` by the provider, or `reserved`: the call had no answer in time, or its gateway was killed, so
    nobody knows what it used. Then tokens and cost are what it may have used at most, estimated from the request.
    `timeouts`: how many calls of this sandbox, up to this one, had no answer in time since the last one that had.
    """

    partition: str
    sandbox_id: str
    task_id: str
    epoch: int
    request_id: str
    at: datetime
    model: str
    provider: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    seconds: float
    status: int
    markers: list[str] = []
    usage: Literal["measured", "reserved"] = "measured"
    timeouts: int = 0


class ModelAsked(Event, subject="sandbox.{partition}.{sandbox_id}.asked.{request_id}"):
    """A model call that is about to be made. Stream `MODEL_ASKED`, one message per call.

    `call` is what is metered for it if its gateway has not done so by `settle_by`. An empty body replaces this message
    once the call is metered.
    """

    partition: str
    sandbox_id: str
    request_id: str
    settle_by: datetime
    call: ModelCalled


class SandboxBeat(Event, subject="sandbox.{partition}.{sandbox_id}.beat"):
    """A worker's beat as the gateway passes it on. Stream `BEATS`, one per sandbox; `at` is the gateway's clock."""

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
