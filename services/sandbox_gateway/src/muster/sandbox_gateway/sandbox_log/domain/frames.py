"""What may be appended to a sandbox log: a pure decision on its last frame and on what wants in."""

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
"""Refused when a log stream is nearly full; the rest are control frames, for which room is kept."""

_NOTHING = msgspec.Raw(b"null")
_FRAME_ROOM = 2048
"""What a frame needs around its events."""


class SeqBehind(Conflict):
    """The log expects another `seq`: `next_seq` says which."""

    code = "behind"

    def __init__(self, text: str = "", *, field: str | None = None, next_seq: int = 0) -> None:
        super().__init__(text, field=field)
        self.next_seq = next_seq


class LogTooNew(Gone):
    """The log has no frame, so nobody ever opened this sandbox, or the log was lost: a person must look."""

    code = "gone"


class LogOwner(msgspec.Struct, frozen=True):
    """Whose log it is, and which epoch speaks."""

    sandbox_id: str
    task_id: str
    agent_id: str
    epoch: int


class FrameDraft(msgspec.Struct, frozen=True):
    """Something that wants into a log. Where `first` is 0 the frame takes no seq of its own."""

    whose: LogOwner
    kind: FrameKind
    first: int = 0
    next: int = 0
    events: list[LoggedEvent] = []
    body: msgspec.Raw = _NOTHING

    def frame(self, at: datetime) -> Frame:
        """The frame as it is stored."""
        return Frame(
            sandbox_id=self.whose.sandbox_id,
            task_id=self.whose.task_id,
            agent_id=self.whose.agent_id,
            epoch=self.whose.epoch,
            kind=self.kind,
            first=self.first,
            next=self.next,
            at=at,
            events=self.events,
            body=self.body,
        )


def control(whose: LogOwner, kind: FrameKind, body: object, *, next_seq: int = 0) -> FrameDraft:
    """A frame without events. `next_seq` is only for `finished`: what its sender believes comes next."""
    return FrameDraft(whose, kind, 0, next_seq, body=msgspec.Raw(encode(body)))


def gap(whose: LogOwner, stated: Gap) -> FrameDraft:
    """The worker's word that a range will never come."""
    return FrameDraft(whose, FrameKind.GAP, stated.from_seq, stated.to_seq + 1, body=msgspec.Raw(encode(stated)))


def decide(tail: FrameHead | None, draft: FrameDraft) -> FrameDraft | Fault | None:
    """The frame to append after `tail`, trimmed; None when all of it is there already; or the refusal."""
    if tail is None:
        return _first(draft)
    if tail.kind.terminal:
        return None if draft.kind.terminal else Gone(f"this sandbox's log has ended ({tail.kind}): stop")
    if tail.epoch != draft.whose.epoch:
        return Gone(f"epoch {draft.whose.epoch} is not this sandbox's, which is {tail.epoch}: stop")
    if tail.kind is FrameKind.FINISHED and not draft.kind.terminal:
        return _after_finished(tail, draft)
    return _next(tail, draft)


def ended(tail: FrameHead | None, epoch: int) -> Gone | None:
    """Why a run takes no more messages and makes no more model calls; None while it goes on."""
    if tail is None:
        return LogTooNew("this sandbox has no log: it was never opened")
    if tail.kind.terminal or tail.epoch != epoch:
        return Gone("this epoch has ended: stop")
    if tail.kind is FrameKind.FINISHED:
        return Gone("this run has reported that it is finished: nothing comes after that")
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
            return _placed(draft, tail.next)


def _first(draft: FrameDraft) -> FrameDraft | Fault | None:
    match draft.kind:
        case FrameKind.OPENED | FrameKind.FENCED:
            return _placed(draft, 1)
        case FrameKind.CLOSED:
            return None
        case _:
            return LogTooNew("this sandbox has no log: it was never opened")


def _after_finished(tail: FrameHead, draft: FrameDraft) -> Fault | None:
    """A `finished` log takes nothing but its end, so that the tail alone still says that it is finished."""
    if draft.kind in (FrameKind.EVENTS, FrameKind.GAP) and draft.next > tail.next:
        return Gone("this run has reported that it is finished: nothing comes after that")
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


def _placed(draft: FrameDraft, next_seq: int) -> FrameDraft:
    return msgspec.structs.replace(draft, first=next_seq, next=next_seq)


def events_drafts(whose: LogOwner, events: Sequence[LoggedEvent], size: int) -> list[FrameDraft]:
    """Events with consecutive seqs as the drafts of one or more frames. `size` is that of the whole post, in bytes."""
    if not events:
        return [FrameDraft(whose, FrameKind.EVENTS)]
    if len(events) <= MAX_FRAME_EVENTS and size <= MAX_FRAME_BYTES * 3 // 4:
        return [_events_draft(whose, list(events))]
    return [_events_draft(whose, piece) for piece in _pieces(events)]


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


def _events_draft(whose: LogOwner, events: list[LoggedEvent]) -> FrameDraft:
    return FrameDraft(whose, FrameKind.EVENTS, events[0].seq, events[-1].seq + 1, events)
