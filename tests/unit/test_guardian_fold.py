"""The guardian's fold: what counts as repetition, what becomes of a message, and that folding again gives the same."""

from collections.abc import Callable, Sequence
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.common.contract import encode
from muster.common.contracts.guardian import GuardianRecord
from muster.common.contracts.sandbox_log import Frame, FrameKind, LoggedEvent
from muster.guardian.domain.inputs import Input, Policy, Refused, Sent, Silence, SteerRequested
from muster.guardian.domain.refolding import Refold, recorded
from muster.guardian.domain.reporting import Whose, findings, interventions
from muster.guardian.domain.trajectory import Trajectory
from tests.support.sandbox_script import BEGAN, Script

WHOSE = Whose("tsk_one", "sbx_one", 1)


class Live:
    """Folds as the service does, keeping the guardian's log."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.trajectory = Trajectory("sbx_one")
        self.records: list[GuardianRecord] = []
        self.position = 0
        self.give(policy or Policy())

    def play(self, frames: Sequence[Frame]) -> "Live":
        for frame in frames:
            self.position += 10
            self._keep(self.trajectory.take_frame(frame, self.position))
        return self

    def give(self, said: Input) -> "Live":
        record = GuardianRecord(
            n=len(self.records) + 1,
            after_seq=self.trajectory.next,
            after_position=self.trajectory.position,
            at=BEGAN + timedelta(seconds=self.position),
            kind=said.KIND,
            role="input",
            guardian_epoch=1,
            body=msgspec.Raw(encode(said)),
        )
        self.records.append(record)
        self._keep(self.trajectory.take_input(record))
        return self

    def _keep(self, decisions: Sequence[object]) -> None:
        for decision in decisions:
            n = len(self.records) + 1
            self.records.append(recorded(decision, self.trajectory, n=n, guardian_epoch=1))  # pyright: ignore[reportArgumentType]

    @property
    def kinds(self) -> list[str]:
        return [record.kind for record in self.records if record.role == "decision"]

    @property
    def message_id(self) -> str:
        return next(iter(self.trajectory.interventions))

    @property
    def view(self) -> tuple[str, str | None, list[str]]:
        """Stage, outcome and the chain of receipts of the first message."""
        first = interventions(self.records, WHOSE)[0]
        return first.stage, first.outcome, [receipt.stage for receipt in first.receipts]


def repeating(times: int = 4) -> Script:
    script = Script().says(None, "fix the bug")
    for number in range(times):
        script.step("pytest -q", f"\x1b[31m1 failed\x1b[0m in {number}.4{number}s", thought=f"attempt {number}")
    return script


def steered() -> tuple[Live, Script]:
    """A finding whose message was stored, delivered and seen."""
    script = repeating()
    live = Live().play(script.frames)
    live.give(Sent(message_id=live.message_id, position=7))
    known = len(script.frames)
    script.says(f"muster:{live.message_id}").seen(live.message_id)
    return live.play(script.frames[known:]), script


def test_a_repeated_action_is_found_though_times_and_colours_and_thoughts_vary() -> None:
    live = Live().play(repeating().frames)

    assert live.kinds == ["finding", "issued"]
    (finding,) = findings(live.records, WHOSE)
    assert finding.seqs == [2, 3, 4, 5, 6, 7, 8, 9]
    assert "pytest -q" in finding.summary


@pytest.mark.parametrize(
    "steps",
    [
        [("pytest", "2 failed"), ("pytest", "2 failed"), ("ls", "a"), ("pytest", "2 failed"), ("pytest", "2 failed")],
        [("pytest", f"E  {word}") for word in ("missing import", "bad name", "no such file", "assert False")],
        [("mkdir a1", ""), ("mkdir a2", ""), ("mkdir a3", ""), ("mkdir a4", "")],
        [("pytest", "2 failed")] * 3,
    ],
    ids=["something else in between", "results differ", "silent acts that differ in a number", "too few"],
)
def test_progress_is_not_a_finding(steps: list[tuple[str, str]]) -> None:
    script = Script()
    for command, output in steps:
        script.step(command, output)

    assert Live().play(script.frames).kinds == []


@pytest.mark.parametrize(
    "outputs",
    [
        [f"built /tmp/tmp{name}/x.py at 2026-11-21T08:00:0{n}Z" for n, name in enumerate("abcd")],
        [f"object at 0x7f{n}a2 id 3f2504e0-4f89-11d3-9a0c-0305e82c330{n}" for n in range(4)],
        [f"took {n}.5 ms, pid {4000 + n}" for n in range(4)],
        ["", "", "", ""],
    ],
    ids=["temporary names and times", "hex ids", "durations and numbers", "no output at all"],
)
def test_what_varies_by_itself_is_no_progress(outputs: list[str]) -> None:
    script = Script()
    for output in outputs:
        script.step("make", output)

    assert Live().play(script.frames).kinds == ["finding", "issued"]


@pytest.mark.parametrize(
    "strange",
    [b"[" * 1100 + b"]" * 1100, b"[" * 50_000 + b"]" * 50_000, b'{"command": ' * 900 + b"1" + b"}" * 900, b"1e999"],
    ids=["deep lists", "deeper than can be decoded", "deep objects", "no number that exists"],
)
def test_what_cannot_be_read_is_known_by_its_two_ends(strange: bytes) -> None:
    logged = [
        LoggedEvent(
            seq=seq,
            event_id=f"evt_{seq}",
            kind=kind,
            at=BEGAN,
            source="agent",
            body=msgspec.Raw(b'{"tool_name": "t", "%s": %s}' % (field, strange)),
        )
        for seq, (kind, field) in enumerate([("ActionEvent", b"action"), ("ObservationEvent", b"observation")] * 4, 1)
    ]
    frame = msgspec.structs.replace(Script().frames[0], kind=FrameKind.EVENTS, next=9, events=logged)

    assert Live().play([frame]).kinds == ["finding", "issued"]


def test_another_exit_code_is_another_result() -> None:
    script = Script()
    for code in (1, 2, 1, 2):
        script.step("make", "error", exit_code=code)

    assert Live().play(script.frames).kinds == []


def test_a_message_of_the_user_begins_the_count_again() -> None:
    script = repeating(3).says(None, "go on").step("pytest -q", "1 failed in 9s")

    assert Live().play(script.frames).kinds == []


def test_a_message_that_was_seen_and_followed_by_another_act_is_heeded() -> None:
    live, script = steered()
    known = len(script.frames)
    live.play(script.step("cat setup.py", "import x").frames[known:])

    assert live.view == ("outcome", "heeded", ["issued", "stored", "delivered", "seen", "outcome"])


def test_a_message_after_which_the_repeat_goes_on_is_ignored_and_said_again() -> None:
    live, script = steered()
    known = len(script.frames)
    for _ in range(3 + 4):
        script.step("pytest -q", "1 failed in 3s")
    live.play(script.frames[known:])

    assert live.view[:2] == ("outcome", "ignored")
    assert live.kinds[-3:] == ["outcome", "finding", "issued"]


def test_the_guardian_stops_talking_to_an_agent_that_does_not_listen() -> None:
    live = Live(Policy(most_interventions=0)).play(repeating(8).frames)

    assert live.kinds == ["finding", "finding"]


def test_a_message_is_moot_when_the_run_is_over_before_it_is_acted_on() -> None:
    live, script = steered()
    known = len(script.frames)
    live.play(script.finished().frames[known:])

    assert live.view[:2] == ("outcome", "moot")


@pytest.mark.parametrize(
    ("sent", "taken", "stage"),
    [(False, False, "expired"), (True, False, "unknown"), (True, True, "expired")],
    ids=["never offered", "offered without word of it", "delivered"],
)
def test_a_fence_ends_every_open_message(sent: bool, taken: bool, stage: str) -> None:
    script = repeating()
    live = Live().play(script.frames)
    known = len(script.frames)
    if sent:
        live.give(Sent(message_id=live.message_id, position=1))
    if taken:
        script.says(f"muster:{live.message_id}")
    live.play(script.fenced().frames[known:])

    assert live.view[0] == stage
    assert interventions(live.records, WHOSE)[0].receipts[-1].detail == "fenced"
    assert live.trajectory.unsent == []


def test_a_refused_message_expires_and_is_not_sent_again() -> None:
    live = Live().play(repeating().frames)
    live.give(Refused(message_id=live.message_id, code="gone", detail="the epoch has ended"))

    assert live.view[0] == "expired"
    assert live.trajectory.unsent == []


def test_receipts_may_be_learnt_in_another_order_than_they_happened_in() -> None:
    script = repeating()
    live = Live().play(script.frames)
    known = len(script.frames)
    script.seen(live.message_id).says(f"muster:{live.message_id}").step("ls", "a")
    live.play(script.frames[known:]).give(Sent(message_id=live.message_id, position=3))

    assert live.view == ("outcome", "heeded", ["issued", "stored", "delivered", "seen", "outcome"])
    assert live.trajectory.unsent == []


def test_a_persons_message_is_issued_once_and_heeded_when_the_agent_goes_on() -> None:
    script = repeating(1)
    live = Live().play(script.frames)
    wanted = SteerRequested(message_id="msg_person", text="use tabs", sender="ada", urgent=False)
    live.give(wanted).give(wanted).give(Sent(message_id="msg_person", position=1))
    known = len(script.frames)
    script.says("muster:msg_person").seen("msg_person").step("ls", "a")
    live.play(script.frames[known:])

    assert live.kinds.count("issued") == 1
    assert live.view[:2] == ("outcome", "heeded")


def test_silence_is_decided_once_and_not_after_the_end() -> None:
    silence = Silence(heard_at=BEGAN, ttl_s=15)
    live = Live().play(repeating(1).frames).give(silence).give(silence)
    over = Live().play(repeating(1).finished().frames).give(silence)

    assert live.kinds == ["unresponsive"]
    assert live.trajectory.unasked is not None
    assert over.kinds == []


def test_a_frame_taken_already_is_skipped() -> None:
    script = repeating()
    trajectory = Trajectory("sbx_one")
    for _ in range(2):
        for position, frame in enumerate(script.frames, 1):
            trajectory.take_frame(frame, position)

    assert len(trajectory.steps) == 4


COMMANDS = st.sampled_from(["pytest -q", "make", "ls"])
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("step"), COMMANDS),
        st.tuples(st.just("steps"), COMMANDS),
        st.tuples(st.sampled_from(["deliver", "see", "sent", "refused", "steer", "silence", "user"]), st.just("")),
        st.tuples(st.sampled_from(["finish", "fence"]), st.just("")),
    ),
    max_size=25,
)


def played(moves: Sequence[tuple[str, str]]) -> tuple[Live, Script]:
    """Plays moves as they could come; messages are named by what was issued last."""
    live, script = Live(), Script()

    def catch_up() -> None:
        live.play(script.frames[live.position // 10 :])

    writes: dict[str, Callable[[str, str], object]] = {
        "step": lambda _, word: script.step(word, "1 failed in 2s"),
        "steps": lambda _, word: [script.step(word, f"{number} failed in 2s") for number in range(4)],
        "deliver": lambda last, _: script.says(f"muster:{last}"),
        "see": lambda last, _: script.seen(last),
        "user": lambda _last, _word: script.says(None),
        "finish": lambda _last, _word: script.finished(),
        "fence": lambda _last, _word: script.fenced(),
    }
    inputs: dict[str, Callable[[str], Input]] = {
        "sent": lambda last: Sent(message_id=last, position=1),
        "refused": lambda last: Refused(message_id=last, code="gone", detail=""),
        "steer": lambda _: SteerRequested(message_id=f"msg_{live.position}", text="t", sender="ada", urgent=False),
        "silence": lambda _: Silence(heard_at=BEGAN, ttl_s=15),
    }
    for move, word in moves:
        if live.trajectory.ended:
            break
        catch_up()
        last = next(reversed(live.trajectory.interventions), "msg_none")
        if move in writes:
            writes[move](last, word)
        else:
            live.give(inputs[move](last))
        catch_up()
    catch_up()
    return live, script


@given(MOVES)
def test_replay_gives_the_same_records_byte_by_byte(moves: list[tuple[str, str]]) -> None:
    live, script = played(moves)
    refold = Refold("sbx_one", live.records)
    for number, frame in enumerate(script.frames, 1):
        refold.frame(frame, number * 10)
    refold.end()

    assert [encode(record) for record in refold.folded] == [encode(record) for record in live.records]
    assert refold.diverged == []
    assert refold.missing == []


@given(MOVES, st.data())
def test_a_guardian_that_died_anywhere_finds_exactly_what_it_had_not_stored(
    moves: list[tuple[str, str]], data: st.DataObject
) -> None:
    live, script = played(moves)
    # It can die between any two appends; an input is appended only when everything decided before it is stored.
    survived = data.draw(st.integers(1, len(live.records)))
    lost = live.records[survived:]
    until_next_input = next((index for index, record in enumerate(lost) if record.role == "input"), len(lost))
    reached = lost[until_next_input].after_position if until_next_input < len(lost) else live.position
    refold = Refold("sbx_one", live.records[:survived])
    for number, frame in enumerate(script.frames, 1):
        if number * 10 <= reached:
            refold.frame(frame, number * 10)
    refold.end()

    missing = [encode(msgspec.structs.replace(record, guardian_epoch=1)) for record in refold.missing]
    assert missing == [encode(record) for record in lost[:until_next_input]]


@given(MOVES)
def test_every_message_ends_in_one_named_state(moves: list[tuple[str, str]]) -> None:
    live, _ = played([*moves, ("fence", "")])

    for view in interventions(live.records, WHOSE):
        ends = [receipt.stage for receipt in view.receipts if receipt.stage in ("outcome", "expired", "unknown")]
        assert len(ends) == 1
        assert len({receipt.stage for receipt in view.receipts}) == len(view.receipts)
