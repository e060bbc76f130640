"""Frames that may be appended to a sandbox log."""

from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from muster.common.contract import encode
from muster.common.contracts.sandbox_log import (
    MAX_FRAME_BYTES,
    MAX_FRAME_EVENTS,
    ClippedBody,
    Frame,
    FrameHead,
    FrameKind,
    Gap,
    LoggedEvent,
)
from muster.common.faults import Fault, Gone
from muster.sandbox_gateway.sandbox_log.domain.frames import (
    EmptyLog,
    FrameDraft,
    LogOwner,
    SeqBehind,
    control,
    decide,
    events_drafts,
    gap,
)
from muster.sandbox_gateway.sandbox_log.domain.verify import referred_payloads, verify

AT = datetime(2026, 11, 21, tzinfo=UTC)
WHOSE = LogOwner("sbx_1", "tsk_1", "agt_1", 1)
OTHER_EPOCH = LogOwner("sbx_1", "tsk_1", "agt_1", 2)
KINDS = list(FrameKind)


def event(seq: int, body: bytes = b"{}") -> LoggedEvent:
    return LoggedEvent(seq=seq, event_id=f"e{seq}", kind="MessageEvent", at=AT, source="agent", body=msgspec.Raw(body))


def head(kind: FrameKind, next_seq: int, epoch: int = 1) -> FrameHead:
    return FrameHead(
        sandbox_id="sbx_1",
        task_id="tsk_1",
        agent_id="agt_1",
        epoch=epoch,
        kind=kind,
        first=next_seq,
        next=next_seq,
        at=AT,
    )


class Log:
    """A log in memory that stores the frames that `decide` accepts."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    @property
    def tail(self) -> FrameHead | None:
        if not self.frames:
            return None
        return msgspec.json.decode(encode(self.frames[-1]), type=FrameHead)

    def offer(self, draft: FrameDraft) -> Fault | None:
        verdict = decide(self.tail, draft)
        if isinstance(verdict, FrameDraft):
            self.frames.append(verdict.frame(AT))
            return None
        return verdict


def opened() -> Log:
    log = Log()
    assert log.offer(control(WHOSE, FrameKind.OPENED, {})) is None
    return log


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 12)), max_size=40), st.integers(0, 40))
def test_any_order_of_retried_overlapping_and_gapped_posts_leaves_each_seq_once_and_in_order(
    posts: list[tuple[int, int]], fenced_after: int
) -> None:
    log = opened()
    for number, (first, count) in enumerate(posts):
        if number == fenced_after:
            log.offer(control(WHOSE, FrameKind.FENCED, {}))
        before = log.tail
        assert before is not None
        for draft in events_drafts(WHOSE, [event(first + index) for index in range(count)], 100):
            refusal = log.offer(draft)
            if before.kind.terminal:
                assert isinstance(refusal, Gone)
            elif count and first > before.next:
                assert isinstance(refusal, SeqBehind)
                assert refusal.next_seq == before.next
            else:
                assert refusal is None
    stored = [one.seq for frame in log.frames for one in frame.events]
    assert stored == list(range(1, len(stored) + 1))
    verdict = verify("sbx_1", [encode(frame) for frame in log.frames])
    assert verdict.ok, verdict


@given(st.lists(st.sampled_from(KINDS), max_size=12), st.lists(st.booleans(), max_size=12))
def test_log_is_valid_for_any_frames_in_any_order(kinds: list[FrameKind], strangers: list[bool]) -> None:
    log = Log()
    for kind, stranger in zip(kinds, [*strangers, *[False] * 12], strict=False):
        next_seq = log.tail.next if log.tail else 1
        whose = OTHER_EPOCH if stranger and log.frames else WHOSE
        match kind:
            case FrameKind.EVENTS:
                drafts = events_drafts(whose, [event(next_seq), event(next_seq + 1)], 100)
            case FrameKind.GAP:
                drafts = [gap(whose, Gap(from_seq=next_seq, to_seq=next_seq + 2, why="lost"))]
            case FrameKind.FINISHED:
                drafts = [control(whose, kind, {}, next_seq=next_seq)]
            case _:
                drafts = [control(whose, kind, {})]
        for draft in drafts:
            log.offer(draft)
    if log.frames:
        verdict = verify("sbx_1", [encode(frame) for frame in log.frames])
        assert verdict.ok, verdict
        assert verdict.epoch == 1


def test_only_opened_or_a_fence_begins_a_log() -> None:
    for kind in KINDS:
        verdict = decide(None, control(WHOSE, kind, {}))
        match kind:
            case FrameKind.OPENED | FrameKind.FENCED:
                assert isinstance(verdict, FrameDraft)
                assert (verdict.first, verdict.next) == (1, 1)
            case FrameKind.CLOSED:
                assert verdict is None
            case _:
                assert isinstance(verdict, EmptyLog)


def test_nothing_but_another_end_is_accepted_after_the_end() -> None:
    for end in (FrameKind.FENCED, FrameKind.CLOSED):
        for kind in KINDS:
            verdict = decide(head(end, 5), control(WHOSE, kind, {}, next_seq=5))
            assert (verdict is None) == kind.terminal
            assert kind.terminal or isinstance(verdict, Gone)


def test_append_of_another_epoch_is_refused_as_ended() -> None:
    for kind in KINDS:
        assert isinstance(decide(head(FrameKind.EVENTS, 5), control(OTHER_EPOCH, kind, {}, next_seq=5)), Gone)


def test_finished_is_accepted_once_and_only_at_the_senders_next_seq() -> None:
    tail = head(FrameKind.EVENTS, 5)
    early = decide(tail, control(WHOSE, FrameKind.FINISHED, {}, next_seq=4))
    assert isinstance(early, SeqBehind)
    assert early.next_seq == 5
    assert isinstance(decide(tail, control(WHOSE, FrameKind.FINISHED, {}, next_seq=5)), FrameDraft)
    done = head(FrameKind.FINISHED, 5)
    assert decide(done, control(WHOSE, FrameKind.FINISHED, {}, next_seq=5)) is None
    assert decide(done, control(WHOSE, FrameKind.SEEN, {})) is None
    assert decide(done, events_drafts(WHOSE, [event(4)], 10)[0]) is None
    assert isinstance(decide(done, events_drafts(WHOSE, [event(5)], 10)[0]), Gone)
    assert isinstance(decide(done, control(WHOSE, FrameKind.FENCED, {})), FrameDraft)


def test_a_stated_gap_is_trimmed_like_events() -> None:
    tail = head(FrameKind.EVENTS, 5)
    overlapping = decide(tail, gap(WHOSE, Gap(from_seq=3, to_seq=7, why="disk")))
    assert isinstance(overlapping, FrameDraft)
    assert (overlapping.first, overlapping.next) == (5, 8)
    assert decide(tail, gap(WHOSE, Gap(from_seq=1, to_seq=4, why="disk"))) is None
    assert isinstance(decide(tail, gap(WHOSE, Gap(from_seq=6, to_seq=7, why="disk"))), SeqBehind)


@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=30), st.integers(1, 1200))
def test_a_big_post_becomes_several_frames_within_the_limits(sizes: list[int], count: int) -> None:
    bodies = [b'"%s"' % (b"x" * size) for size in sizes] + [b"{}"] * (count - 1)
    events = [event(seq, body) for seq, body in enumerate(bodies, 1)]
    drafts = events_drafts(WHOSE, events, sum(map(len, bodies)) + 200 * len(bodies))
    assert [one.seq for draft in drafts for one in draft.events] == [one.seq for one in events]
    for draft in drafts:
        assert len(draft.events) <= MAX_FRAME_EVENTS
        assert len(encode(draft.frame(AT))) <= MAX_FRAME_BYTES


def test_verify_names_each_fault() -> None:
    log = opened()
    for draft in events_drafts(WHOSE, [event(1), event(2)], 10):
        log.offer(draft)
    frames = [*log.frames]
    stray = control(OTHER_EPOCH, FrameKind.FENCED, {})
    frames.append(msgspec.structs.replace(stray, first=4, next=4).frame(AT))
    frames.append(frames[1])
    faults = verify("sbx_1", [*map(encode, frames), b"{"]).faults
    for expected in (
        "frame 3: begins at seq 4, but 3",
        "frame 3: epoch 2",
        "frame 4: events after the end",
        "frame 5: cannot be read",
    ):
        assert any(fault.startswith(expected) for fault in faults), (expected, faults)
    assert not verify("sbx_1", []).ok
    assert not verify("sbx_2", [encode(frame) for frame in log.frames]).ok


def test_missing_or_exchanged_whole_body_is_a_fault() -> None:
    log, digests = opened(), ("a" * 64, "b" * 64, "c" * 64)
    for seq, (sha256, told) in enumerate(zip(digests, (digests[0], digests[1], digests[0]), strict=True), 1):
        body = encode(ClippedBody(head="", tail="", size=1, sha256=told))
        log.offer(events_drafts(WHOSE, [msgspec.structs.replace(event(seq, body), payload=sha256)], 100)[0])
    log.offer(events_drafts(WHOSE, [msgspec.structs.replace(event(4), payload=digests[0])], 100)[0])
    bodies = [encode(frame) for frame in log.frames]
    assert referred_payloads([*bodies, b"{"]) == list(digests)
    verdict = verify("sbx_1", bodies, payload_faults={digests[1]: "is missing"})
    assert (verdict.ok, verdict.payloads) == (False, 3)
    assert [fault.split(":")[0] for fault in verdict.faults] == ["frame 3", "frame 4", "frame 5"]
    assert "is missing" in verdict.faults[0]
