"""Decides which frame may be appended to a sandbox's log, from the log's last frame (its tail) and a draft.

A frame is one append to the log, mostly with several events. The decision needs only the tail, because the tail
contains the epoch, the kind and the seq of the next expected event:

```
(empty) ──opened──▶ open ──events, gap, seen, …──▶ open ──finished──▶ finished ──fenced, closed──▶ ended
   │                  └───────────────fenced, closed────────────────────────────────────────────▶ ended
   └──fenced───────────────────────────────────────────────────────────────────────────────────▶ ended
```
Events that the log has already are removed from the draft, so that a worker may send the same events again. A draft
that would leave out a seq is refused, and the refusal contains the expected seq. After `finished` only a terminal frame
is accepted, and after a terminal frame nothing is accepted. So the tail alone shows whether an epoch has ended. The
functions do no I/O; `store/log.py` appends the frames.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from muster.common.contract import encode
from muster.common.contracts.sandbox_log import (
    MAX_FRAME_BYTES,
    MAX_FRAME_EVENTS,
    Frame,
    FrameHead,
    FrameKind,
    Gap,
    LoggedEvent,
)
from muster.common.faults import Conflict, Fault, Gone

ORDINARY = frozenset({FrameKind.EVENTS, FrameKind.SEEN, FrameKind.CONNECTION, FrameKind.GAP})
"""Kinds of frames that are refused when a stream is nearly full. Space is reserved for all other kinds of frames."""

_NOTHING = msgspec.Raw(b"null")
_FRAME_ROOM = 2048
"""Bytes reserved in a frame for its fields other than `events`."""


class SeqBehind(Conflict):
    """The worker's first event is later than the event that the log expects next, which has the seq `next_seq`."""

    code = "behind"

    def __init__(self, text: str = "", *, field: str | None = None, next_seq: int = 0) -> None:
        super().__init__(text, field=field)
        self.next_seq = next_seq


class EmptyLog(Gone):
    """The sandbox's log has no frame: the log was never opened, or was lost. An operator has to find the cause."""

    code = "gone"


class LogOwner(msgspec.Struct, frozen=True):
    """The ids of the sandbox, task and agent that a sandbox's log belongs to, and the epoch that writes to the log."""

    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int


class FrameDraft(msgspec.Struct, frozen=True):
    """A frame to append to a sandbox's log.

    `first` is the seq of the frame's first event or lost event, and 0 for a control frame, which contains no events.
    """

    owner: LogOwner
    kind: FrameKind
    first: int = 0
    next: int = 0
    events: list[LoggedEvent] = []
    body: msgspec.Raw = _NOTHING

    def frame(self, at: datetime) -> Frame:
        """Return the frame to store in the sandbox's log, with the time `at`."""
        return Frame(
            sandbox_id=self.owner.sandbox_id,
            task_id=self.owner.task_id,
            agent_id=self.owner.agent_id,
            epoch=self.owner.epoch,
            kind=self.kind,
            first=self.first,
            next=self.next,
            at=at,
            events=self.events,
            body=self.body,
        )


def control(owner: LogOwner, kind: FrameKind, body: object, *, next_seq: int = 0) -> FrameDraft:
    """Make the draft of a control frame, which contains no events.

    Only a `finished` frame needs `next_seq`, the seq that the worker's next event would have.
    """
    return FrameDraft(owner, kind, 0, next_seq, body=msgspec.Raw(encode(body)))


def gap(owner: LogOwner, stated: Gap) -> FrameDraft:
    """Make the draft of a frame that records the seqs of events that the worker has lost and will never send."""
    return FrameDraft(owner, FrameKind.GAP, stated.from_seq, stated.to_seq + 1, body=msgspec.Raw(encode(stated)))


def decide(tail: FrameHead | None, draft: FrameDraft) -> FrameDraft | Fault | None:
    """Decide which frame to append to a log after its last frame `tail`, which is None for an empty log.

    Returns the draft without the events that the log has already. Returns None if the log has the whole draft, and a
    fault if the draft is refused.
    """
    if tail is None:
        return _first(draft)
    if tail.kind.terminal:
        return None if draft.kind.terminal else Gone(f"the sandbox's log has ended ({tail.kind}); the worker must stop")
    if tail.epoch != draft.owner.epoch:
        return Gone(f"the sandbox is at epoch {tail.epoch}; the worker of epoch {draft.owner.epoch} must stop")
    if tail.kind is FrameKind.FINISHED and not draft.kind.terminal:
        return _after_finished(tail, draft)
    return _next(tail, draft)


def ended(tail: FrameHead | None, epoch: int) -> Gone | None:
    """Return the refusal of a message or model call if the sandbox's epoch has ended or its run has finished.

    Returns None if the epoch still runs.
    """
    if tail is None:
        return EmptyLog("the log of this sandbox is empty: it was never opened, or it was lost")
    if tail.kind.terminal or tail.epoch != epoch:
        return Gone("this epoch of the sandbox has ended; its worker must stop")
    if tail.kind is FrameKind.FINISHED:
        return Gone("this run has finished: it accepts no more messages and makes no more model calls")
    return None


def _next(tail: FrameHead, draft: FrameDraft) -> FrameDraft | Fault | None:
    match draft.kind:
        case FrameKind.OPENED:
            return None
        case FrameKind.EVENTS | FrameKind.GAP:
            return _trimmed(tail, draft)
        case FrameKind.FINISHED if draft.next != tail.next:
            return _behind(tail, draft.next)
        case _:
            return _without_events(draft, tail.next)


def _first(draft: FrameDraft) -> FrameDraft | Fault | None:
    match draft.kind:
        case FrameKind.OPENED | FrameKind.FENCED:
            return _without_events(draft, 1)
        case FrameKind.CLOSED:
            return None
        case _:
            return EmptyLog("the log of this sandbox is empty: it was never opened, or it was lost")


def _after_finished(tail: FrameHead, draft: FrameDraft) -> Fault | None:
    """Refuse new events after a `finished` frame. Other drafts that do not end the log are not appended either.

    So the last frame of the log still shows that the run has finished.
    """
    if draft.kind in (FrameKind.EVENTS, FrameKind.GAP) and draft.next > tail.next:
        return Gone("this run has finished: no events can be appended after that")
    return None


def _trimmed(tail: FrameHead, draft: FrameDraft) -> FrameDraft | Fault | None:
    if draft.next <= tail.next:
        return None
    if draft.first > tail.next:
        return _behind(tail, draft.first)
    events = draft.events[tail.next - draft.first :] if draft.first < tail.next else draft.events
    return msgspec.structs.replace(draft, first=tail.next, events=events)


def _behind(tail: FrameHead, got: int) -> SeqBehind:
    return SeqBehind(f"the log expects seq {tail.next}, not {got}", next_seq=tail.next)


def _without_events(draft: FrameDraft, next_seq: int) -> FrameDraft:
    return msgspec.structs.replace(draft, first=next_seq, next=next_seq)


def events_drafts(owner: LogOwner, events: Sequence[LoggedEvent], size: int) -> list[FrameDraft]:
    """Split a worker's events, which have consecutive seqs, into drafts that each fit into one frame.

    `size` is the number of bytes of the worker's whole request.
    """
    if not events:
        return [FrameDraft(owner, FrameKind.EVENTS)]
    if len(events) <= MAX_FRAME_EVENTS and size <= MAX_FRAME_BYTES * 3 // 4:
        return [_events_draft(owner, list(events))]
    return [_events_draft(owner, piece) for piece in _pieces(events)]


def _pieces(events: Sequence[LoggedEvent]) -> Iterator[list[LoggedEvent]]:
    piece, used = list[LoggedEvent](), _FRAME_ROOM
    for event in events:
        size = len(encode(event)) + 1
        if piece and (len(piece) == MAX_FRAME_EVENTS or used + size > MAX_FRAME_BYTES):
            yield piece
            piece, used = [], _FRAME_ROOM
        piece.append(event)
        used += size
    yield piece


def _events_draft(owner: LogOwner, events: list[LoggedEvent]) -> FrameDraft:
    return FrameDraft(owner, FrameKind.EVENTS, events[0].seq, events[-1].seq + 1, events)
