"""Decides which frame may be appended to a sandbox log, from the log's last frame (its tail) and a draft.

The decision needs no more than the tail, because the tail carries the epoch, the kind and the next expected seq:

```
(empty) ──opened──▶ open ──events, gap, seen, …──▶ open ──finished──▶ finished ──fenced, closed──▶ ended
   │                  └───────────────fenced, closed────────────────────────────────────────────▶ ended
   └──fenced───────────────────────────────────────────────────────────────────────────────────▶ ended
```
Events that the log has already are cut off the draft, so that a worker may send a batch again. A draft that would
leave out a seq is refused with the expected one. After `finished` only a terminal frame is accepted, and after that
nothing: so the tail alone always says whether an epoch has ended. The functions do no I/O; `store/log.py` applies
them.
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

ORDINARY = frozenset({FrameKind.EVENTS, FrameKind.SEEN, FrameKind.GAP})
"""Kinds that are refused when a log stream is nearly full. All other kinds are control frames, with reserved room."""

_NOTHING = msgspec.Raw(b"null")
_FRAME_ROOM = 2048
"""Bytes reserved in a frame for its fields other than `events`."""


class SeqBehind(Conflict):
    """The draft begins after the seq that the log expects next, which is `next_seq`."""

    code = "behind"

    def __init__(self, text: str = "", *, field: str | None = None, next_seq: int = 0) -> None:
        super().__init__(text, field=field)
        self.next_seq = next_seq


class EmptyLog(Gone):
    """The log has no frame: the sandbox was never opened, or its log was lost. An operator has to find out which."""

    code = "gone"


class LogOwner(msgspec.Struct, frozen=True):
    """The sandbox, task and agent that a log belongs to, and the epoch that writes to it."""

    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int


class FrameDraft(msgspec.Struct, frozen=True):
    """A frame that is to be appended. `first` is 0 for a control frame, which has no seqs of its own."""

    owner: LogOwner
    kind: FrameKind
    first: int = 0
    next: int = 0
    events: list[LoggedEvent] = []
    body: msgspec.Raw = _NOTHING

    def frame(self, at: datetime) -> Frame:
        """Return the frame to store, stamped with the time `at`."""
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
    """Make a draft without events. `next_seq` is for `finished` only: the seq that the worker would use next."""
    return FrameDraft(owner, kind, 0, next_seq, body=msgspec.Raw(encode(body)))


def gap(owner: LogOwner, stated: Gap) -> FrameDraft:
    """Make the draft that records seqs which the worker has lost and will never send."""
    return FrameDraft(owner, FrameKind.GAP, stated.from_seq, stated.to_seq + 1, body=msgspec.Raw(encode(stated)))


def decide(tail: FrameHead | None, draft: FrameDraft) -> FrameDraft | Fault | None:
    """Decide what to append after `tail`, which is None for an empty log.

    Returns the frame to append, without the events that the log has; None if the log has all of it; or the refusal.
    """
    if tail is None:
        return _first(draft)
    if tail.kind.terminal:
        return None if draft.kind.terminal else Gone(f"this sandbox's log has ended ({tail.kind}): stop")
    if tail.epoch != draft.owner.epoch:
        return Gone(f"the sandbox is at epoch {tail.epoch}, so epoch {draft.owner.epoch} has ended: stop")
    if tail.kind is FrameKind.FINISHED and not draft.kind.terminal:
        return _after_finished(tail, draft)
    return _next(tail, draft)


def ended(tail: FrameHead | None, epoch: int) -> Gone | None:
    """Return the refusal for messages and model calls of an epoch that has ended or finished; None while it runs."""
    if tail is None:
        return EmptyLog("this sandbox has no log: it was never opened")
    if tail.kind.terminal or tail.epoch != epoch:
        return Gone("this epoch has ended: stop")
    if tail.kind is FrameKind.FINISHED:
        return Gone("this run has finished: it takes no more messages and makes no more model calls")
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
            return EmptyLog("this sandbox has no log: it was never opened")


def _after_finished(tail: FrameHead, draft: FrameDraft) -> Fault | None:
    """Accept no draft but a terminal one after `finished`, so that the tail keeps saying that the run has finished."""
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
    """Split events with consecutive seqs into drafts that each fit into a frame. `size`: bytes of the whole request."""
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
