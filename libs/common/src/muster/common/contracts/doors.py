"""What a worker and the gateway say to each other over HTTP. The only credential is the sandbox's token.

    POST /v1/sandboxes/{sandbox_id}/events     PostEvents   → 202 Accepted
    POST /v1/sandboxes/{sandbox_id}/finished   PostFinished → 202 Accepted
    POST /v1/sandboxes/{sandbox_id}/beat       Beat         → 202 Accepted
    GET  /v1/sandboxes/{sandbox_id}/inbox?after=&wait_s=    → 200 InboxPage
    POST /v1/chat/completions                  (OpenAI's shape, for the model)

401 token unknown · 409 `Refused` with the `next_seq` expected · 410 the epoch has ended: stop · 413 too large ·
422 `Refused` naming the field · 429 and 503 with Retry-After.
"""

from datetime import datetime
from typing import Literal

from muster.common.contract import Message
from muster.common.contracts.limits import Count, Epoch
from muster.common.contracts.problem import Problem
from muster.common.contracts.sandbox_log import Finished, Gap, LoggedEvent
from muster.common.contracts.task_spec import TaskSpec

MAX_BODY_BYTES = 8 << 20
"""The largest HTTP body the gateway reads."""


class PostEvents(Message):
    """What gathered since the last post, in order; or the worker's own word that a range is lost."""

    epoch: int
    events: list[LoggedEvent] = []
    gap: Gap | None = None


class PostFinished(Message):
    """The run is over. Sent after its last event was accepted; sending it again changes nothing."""

    epoch: int
    next_seq: int
    result: Finished


class Accepted(Message):
    """Durable: JetStream has acknowledged everything before `next_seq`."""

    next_seq: int


class Beat(Message):
    """Alive, and busy with what."""

    state: Literal["idle", "running", "waiting", "stopping"]
    busy: Literal["tool", "model", "model_retry", "none"]
    since: datetime
    events: Count
    acked: Count
    epoch: Epoch


class InboxMessage(Message):
    """One steering message as the worker takes it. `position` is what it asks `after` next."""

    message_id: str
    epoch: int
    kind: Literal["steer", "control"]
    urgent: bool
    text: str
    sender: str
    expires_at: datetime
    position: int


class InboxPage(Message):
    """The messages after a position, oldest first; empty when the wait ran out."""

    messages: list[InboxMessage] = []


class Refused(Problem, omit_defaults=True):
    """A problem as the doors answer it; a 409 says which `seq` is expected."""

    next_seq: int | None = None


class Handoff(TaskSpec):
    """All a worker is told, in a file it reads and unlinks: never in its environment or arguments.

    `repo` is the copy that the worker clones, not the repository that the submitter named. `gateway_socket` is set
    where the sandbox has no network: the gateway is then behind that unix socket and `gateway_url` only gives the path
    prefix.
    """

    gateway_url: str
    gateway_socket: str | None = None
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
