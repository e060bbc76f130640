"""The sandbox log: one subject per sandbox. Each append is one message, a frame, made by compare-and-set.

An append succeeds only if the last message of the subject is the expected one. Only the gateway writes the log. Every
frame contains `epoch` and `next`. So the last frame alone shows the next seq, the epoch that owns the log, and an end
of the log.
"""

import hashlib
from datetime import datetime
from enum import StrEnum
from mmap import mmap
from typing import Annotated, Literal, Self
from zlib import crc32

import msgspec

from muster.common.contract import Message, raw, token
from muster.common.contracts.model_calls import Limit

PARTITIONS = 16
MAX_FRAME_BYTES = 1 << 20
MAX_FRAME_EVENTS = 500
MAX_BODY_BYTES = 512 << 10
"""A longer event body is replaced by its head, tail, size and sha256 (see `ClippedBody`)."""
PAYLOADS = "payloads"
"""The object bucket of whole bodies of events. Each object has the name that `payload_name` returns."""
_SHOWN_BYTES = 16 << 10
SHA256 = r"^[0-9a-f]{64}$(?!\n)"
"""The pattern of a SHA-256 digest in hexadecimal digits."""
Sha256 = Annotated[str, msgspec.Meta(pattern=SHA256)]


class FrameKind(StrEnum):
    """The kind of a frame (one append to a sandbox log). `FENCED` and `CLOSED` end the log."""

    OPENED = "opened"
    EVENTS = "events"
    SEEN = "seen"
    MODEL_FAILED = "model_failed"
    CONNECTION = "connection"
    FINISHED = "finished"
    GAP = "gap"
    FENCED = "fenced"
    CLOSED = "closed"

    @property
    def terminal(self) -> bool:
        """Return whether a frame of this kind ends the log."""
        return self in (FrameKind.FENCED, FrameKind.CLOSED)


Outcome = Literal["success", "failure", "error", "refused"]
"""`refused`: every other attempt would be refused too, for example because a model key or a git branch is missing."""


class LoggedEvent(Message, gc=False):
    """One event of an agent, with the content from the agent's disk. `body` is the agent's JSON without any change.

    `workspace` is the id of the commit that records the files after this event, if they were recorded. `payload` is set
    if `body` is a `ClippedBody` whose whole body is kept: the SHA-256 digest of the kept bytes.
    """

    # The garbage collector does not scan events, which refer to no other objects and are decoded by the hundred.

    seq: int
    event_id: str
    kind: str
    at: datetime
    source: str
    parent_id: str | None = None
    body: msgspec.Raw = raw(b"null")
    workspace: str | None = None
    payload: Sha256 | None = None


class Frame(Message):
    """One message of a sandbox log. `events[i].seq == first + i` and `next == first + len(events)`."""

    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int
    kind: FrameKind
    first: int
    next: int
    at: datetime
    events: list[LoggedEvent] = []
    body: msgspec.Raw = raw(b"null")


class FrameHead(Message):
    """A frame without its events and body, which is cheap to decode where only the order of frames matters."""

    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int
    kind: FrameKind
    first: int
    next: int
    at: datetime


class Opened(Message):
    """The body of an `opened` frame, the first frame of a log: the settings of the sandbox."""

    package: str
    model: str
    conversation_id: str
    conversation_from: int = 1
    isolation: str = "unknown"
    """The isolation of the worker from its host: `bubblewrap`, or `plain` for none."""


class Seen(Message):
    """The body of a `seen` frame: a model request of the worker contained this steering message."""

    message_id: str
    request_id: str


class NetworkConnection(Message):
    """The body of a `connection` frame: connections of the sandbox to one host and port through the gateway's proxy.

    The first connection to a host is recorded at once. Further ones of the same minute are recorded together.
    """

    host: str
    """The host that the client named. It is `(other hosts)` if too many hosts were named in one minute."""
    port: int
    allowed: bool
    """Whether the proxy made the connections. If not, `reason` says why."""
    reason: str = ""
    connections: int = 1
    """The number of connections that were opened or refused."""
    open: int = 0
    """The number of these connections that were still open when the frame was written."""
    sent_bytes: int = 0
    received_bytes: int = 0
    seconds: float = 0.0
    """Seconds for which the connections were open, added up."""

    @property
    def sentence(self) -> str:
        """One sentence for people: the host, the outcome, and the bytes or the reason."""
        times = "" if self.connections == 1 else f" {self.connections} times"
        if not self.allowed:
            return f"refused {self.host}:{self.port}{times}: {self.reason}"
        failed = f", {self.reason}" if self.reason else ""
        size = f"{self.sent_bytes:,} bytes sent, {self.received_bytes:,} received"
        return f"{self.host}:{self.port}{times}: {size}{failed}"


class Gap(Message):
    """The body of a `gap` frame: the worker reports that it cannot send the events `from_seq` to `to_seq`.

    Both ends are included.
    """

    from_seq: int
    to_seq: int
    why: str


class Finished(Message):
    """The body of a `finished` frame: the result that the worker claims. The agent manager validates it afterwards."""

    outcome: Outcome
    summary: str = ""
    diff: str = ""
    base: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$(?!\n)")] | None = None
    """The commit of the repository that the diff applies to."""
    error: str | None = None
    limit: Limit | None = None
    """The limit of the task that ended the run."""
    question: bool = False
    """Whether the run ended with a question to a person, which is in `summary`."""
    workspace: str | None = None
    """The id of the last commit that records the workspace; None if nothing was recorded."""


class Fenced(Message):
    """The body of a `fenced` frame, which ends an epoch: after it, nothing of this epoch is stored."""

    reason: str


class Closed(Message):
    """The body of a `closed` frame: the sandbox ended normally."""

    reason: str


class ClippedBody(Message):
    """The replacement for an event body that is larger than `MAX_BODY_BYTES`.

    If the whole body is kept, `size` and `sha256` are those of the kept bytes, which contain no secrets.
    """

    clipped: Literal[True] = True
    head: str
    tail: str
    size: int
    sha256: str
    redacted: bool = False
    """Whether secrets of the body were replaced before it was kept, so that `sha256` is not that of the original."""
    why: str = ""
    """The reason why the whole body is not kept; empty if it is kept."""

    @classmethod
    def of(cls, body: bytes | mmap, *, sha256: str | None = None, redacted: bool = False, why: str = "") -> Self:
        """Return the replacement for a body. `sha256` is the body's digest, if the caller knows it already."""
        return cls(
            head=bytes(body[:_SHOWN_BYTES]).decode(errors="replace"),
            tail=bytes(body[-_SHOWN_BYTES:]).decode(errors="replace"),
            size=len(body),
            sha256=sha256 or hashlib.sha256(body).hexdigest(),
            redacted=redacted,
            why=why,
        )


def partition(sandbox_id: str) -> str:
    """Return the partition of a sandbox's log: two digits, `00` to `15`."""
    return f"{crc32(sandbox_id.encode()) % PARTITIONS:02d}"


def log_stream(part: str) -> str:
    """Return the name of the stream of a partition."""
    return f"SANDBOX_LOG_{part}"


def log_subject(sandbox_id: str) -> str:
    """Return the subject of a sandbox's log."""
    return f"sandbox.{partition(sandbox_id)}.{token(sandbox_id, 'sandbox_id')}.log"


def payload_name(sandbox_id: str, sha256: str) -> str:
    """Return the name of the object with the whole body of an event of a sandbox."""
    return f"{token(sandbox_id, 'sandbox_id')}/{token(sha256, 'sha256')}"


def all_log_streams() -> list[str]:
    """Return the names of all sandbox log streams, in order of their partitions."""
    return [log_stream(f"{number:02d}") for number in range(PARTITIONS)]
