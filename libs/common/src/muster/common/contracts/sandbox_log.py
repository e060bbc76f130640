"""The sandbox log: one subject per sandbox, one frame per append, compare-and-set on the last one.

Only the gateway writes it. Every frame carries `epoch` and `next`, so the last frame alone answers what comes next,
whose it is and whether the log has ended.
"""

from datetime import datetime
from enum import StrEnum
from typing import Literal
from zlib import crc32

import msgspec

from muster.common.contract import Message, raw, token

PARTITIONS = 16
MAX_FRAME_BYTES = 1 << 20
MAX_FRAME_EVENTS = 500
MAX_BODY_BYTES = 512 << 10
"""A longer event body is replaced by its head, tail, size and sha256 (see `ClippedBody`)."""


class FrameKind(StrEnum):
    """What a frame says. `FENCED` and `CLOSED` are terminal."""

    OPENED = "opened"
    EVENTS = "events"
    SEEN = "seen"
    FINISHED = "finished"
    GAP = "gap"
    FENCED = "fenced"
    CLOSED = "closed"

    @property
    def terminal(self) -> bool:
        """Whether nothing may follow."""
        return self in (FrameKind.FENCED, FrameKind.CLOSED)


Outcome = Literal["success", "failure", "error", "refused"]
"""`refused`: by somebody who would refuse every other attempt too (no key for the model, no such branch)."""


class LoggedEvent(Message):
    """One event of the agent, as it was on the agent's disk. `body` is the agent's own JSON, untouched."""

    seq: int
    event_id: str
    kind: str
    at: datetime
    source: str
    parent_id: str | None = None
    body: msgspec.Raw = raw(b"null")


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
    """A frame without what it carries: cheap to decode where only the order matters."""

    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int
    kind: FrameKind
    first: int
    next: int
    at: datetime


class Opened(Message):
    """Body of an `opened` frame."""

    package: str
    model: str
    conversation_id: str
    conversation_from: int = 1
    isolation: str = "unknown"
    """What keeps the worker from its host: `bubblewrap`, or `plain` for nothing."""


class Seen(Message):
    """Body of a `seen` frame: a model request carried this steering message."""

    message_id: str
    request_id: str


class Gap(Message):
    """Body of a `gap` frame: what the worker itself says it cannot send any more, both ends included."""

    from_seq: int
    to_seq: int
    why: str


class Finished(Message):
    """Body of a `finished` frame: the worker's own account, which the manager then validates."""

    outcome: Outcome
    summary: str = ""
    diff: str = ""
    error: str | None = None


class Fenced(Message):
    """Body of a `fenced` frame: after it nothing of this epoch is stored."""

    reason: str


class Closed(Message):
    """Body of a `closed` frame: the sandbox ended in good order."""

    reason: str


class ClippedBody(Message):
    """Stands for an event body over `MAX_BODY_BYTES`."""

    clipped: Literal[True] = True
    head: str
    tail: str
    size: int
    sha256: str


def partition(sandbox_id: str) -> str:
    """Two digits, `00` to `15`: which stream holds this sandbox's log."""
    return f"{crc32(sandbox_id.encode()) % PARTITIONS:02d}"


def log_stream(part: str) -> str:
    """The stream of a partition."""
    return f"SANDBOX_LOG_{part}"


def log_subject(sandbox_id: str) -> str:
    """The one subject of this sandbox's log."""
    return f"sandbox.{partition(sandbox_id)}.{token(sandbox_id, 'sandbox_id')}.log"


def all_log_streams() -> list[str]:
    """Every partition's stream, in order."""
    return [log_stream(f"{number:02d}") for number in range(PARTITIONS)]
