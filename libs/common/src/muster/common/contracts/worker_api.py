"""The HTTP messages between a worker and the sandbox gateway. The only credential is the sandbox's token.

The gateway answers 401 to an unknown token, 410 if the epoch has ended and the worker must stop, and 413 to a body that
is too large. It answers a `Refused` with 409 and the expected `next_seq`, or with 422 and the name of the wrong field.
429 and 503 have the header Retry-After. The requests are:

    POST /v1/sandboxes/{sandbox_id}/events     PostEvents   → 202 Accepted
    POST /v1/sandboxes/{sandbox_id}/finished   PostFinished → 202 Accepted
    POST /v1/sandboxes/{sandbox_id}/beat       Beat         → 202 Accepted
    GET  /v1/sandboxes/{sandbox_id}/inbox?after=&wait_s=    → 200 InboxPage
    PUT  /v1/sandboxes/{sandbox_id}/payloads/{sha256}       the JSON body of an event → 201 ClippedBody
    POST /v1/chat/completions                  (OpenAI's shape, for the model)
"""

from datetime import datetime
from typing import Literal

from muster.common.contract import Message
from muster.common.contracts.attempts import PreviousAttempt, UsedSoFar
from muster.common.contracts.limits import Count, Epoch
from muster.common.contracts.model_calls import ModelSettings
from muster.common.contracts.problem import Problem
from muster.common.contracts.sandbox_log import Finished, Gap, LoggedEvent
from muster.common.contracts.task_spec import TaskSpec

MAX_BODY_BYTES = 8 << 20
"""The largest HTTP body in bytes that the gateway reads, except for an upload of a payload."""
MAX_PAYLOAD_BYTES = 64 << 20
"""The largest whole body of an event that the gateway keeps. Of a larger body only a `ClippedBody` is kept."""


class PostEvents(Message):
    """The events of a worker since its last post, in order of `seq`, or a range of events that the worker has lost."""

    epoch: int
    events: list[LoggedEvent] = []
    gap: Gap | None = None


class PostFinished(Message):
    """The result of a worker's run. The worker sends it after the gateway has accepted its last event.

    A repeated post changes nothing.
    """

    epoch: int
    next_seq: int
    result: Finished


class Accepted(Message):
    """The gateway's reply to a post: JetStream has stored every event of the worker before `next_seq`."""

    next_seq: int


class Beat(Message):
    """The heartbeat of a worker or agent process: its state, and the kind of work that it waits for."""

    state: Literal["idle", "running", "waiting", "stopping"]
    busy: Literal["tool", "model", "model_retry", "none"]
    since: datetime
    events: Count
    acked: Count
    epoch: Epoch


class InboxMessage(Message):
    """One steering message for a worker. The worker's next request passes `position` as `after`."""

    message_id: str
    epoch: int
    kind: Literal["steer", "control"]
    urgent: bool
    text: str
    sender: str
    expires_at: datetime
    position: int


class InboxPage(Message):
    """The steering messages after a position, oldest first. The list is empty if none arrived during the wait."""

    messages: list[InboxMessage] = []


class Refused(Problem, omit_defaults=True):
    """An error response of the gateway to a worker. With status 409, `next_seq` is the `seq` that is expected."""

    next_seq: int | None = None


class ProxyHandoff(Message):
    """The file with the sandbox's token for the proxy, which the relay of a command reads and deletes at its start."""

    egress_socket: str
    """The unix socket of the gateway's proxy."""
    token: str


class Handoff(TaskSpec):
    """The handoff: the file with the token and the task, which a worker reads and deletes at its start.

    Neither the worker's environment nor its arguments contain these values. `repo` is the copy that the worker clones,
    not the repository that the submitter named. `gateway_socket` is set if the sandbox has no network. Then the worker
    reaches the gateway by that unix socket, and `gateway_url` only gives the path prefix. `egress_socket` is the unix
    socket of the gateway's proxy. It is set if the sandbox may reach the hosts of an allow-list.
    """

    gateway_url: str
    gateway_socket: str | None = None
    egress_socket: str | None = None
    token: str
    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int
    conversation_id: str
    package: str
    model: str
    workspace: str
    state_dir: str
    beat_running_s: float = 5.0
    beat_idle_s: float = 10.0
    model_deadline_s: float = 630.0
    model_settings: ModelSettings = ModelSettings()
    previous: PreviousAttempt | None = None
    used: UsedSoFar = UsedSoFar()
