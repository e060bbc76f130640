"""The guardian's fold: repetition, outcomes of messages, and equal results of a repeated fold."""

import msgspec
import pytest

from muster.common.contracts.sandbox_log import FrameKind, LoggedEvent
from muster.guardian.journal.domain.inputs import MessageRefused, MessageSent, Policy, SilenceObserved, SteerRequested
from muster.guardian.journal.domain.task_reports import findings, interventions
from muster.guardian.trajectories.domain.trajectory import Trajectory
from tests.support.guardian_live import WHOSE, Live, repeating
from tests.support.sandbox_script import BEGAN, Script


def steered() -> tuple[Live, Script]:
    """Return a fold with a finding whose message was stored, delivered and seen."""
    script = repeating()
    live = Live().play(script.frames)
    live.give(MessageSent(message_id=live.message_id, position=7))
    known = len(script.frames)
    script.says(f"muster:{live.message_id}").seen(live.message_id)
    return live.play(script.frames[known:]), script


def test_repeated_action_is_found_although_times_colours_and_thoughts_vary() -> None:
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
def test_output_that_varies_without_a_change_is_no_progress(outputs: list[str]) -> None:
    script = Script()
    for output in outputs:
        script.step("make", output)

    assert Live().play(script.frames).kinds == ["finding", "issued"]


@pytest.mark.parametrize(
    "strange",
    [b"[" * 1100 + b"]" * 1100, b"[" * 50_000 + b"]" * 50_000, b'{"command": ' * 900 + b"1" + b"}" * 900, b"1e999"],
    ids=["deep lists", "deeper than can be decoded", "deep objects", "no number that exists"],
)
def test_unreadable_output_is_compared_by_its_beginning_and_end(strange: bytes) -> None:
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


def test_user_message_resets_the_count() -> None:
    script = repeating(3).says(None, "go on").step("pytest -q", "1 failed in 9s")

    assert Live().play(script.frames).kinds == []


def test_seen_message_followed_by_another_action_is_heeded() -> None:
    live, script = steered()
    known = len(script.frames)
    live.play(script.step("cat setup.py", "import x").frames[known:])

    assert live.view == ("outcome", "heeded", ["issued", "stored", "delivered", "seen", "outcome"])


def test_message_after_which_the_repetition_continues_is_ignored_and_sent_again() -> None:
    live, script = steered()
    known = len(script.frames)
    for _ in range(3 + 4):
        script.step("pytest -q", "1 failed in 3s")
    live.play(script.frames[known:])

    assert live.view[:2] == ("outcome", "ignored")
    assert live.kinds[-3:] == ["outcome", "finding", "issued"]


def test_guardian_sends_no_more_messages_to_an_agent_that_ignores_them() -> None:
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
def test_fence_gives_every_open_message_an_outcome(sent: bool, taken: bool, stage: str) -> None:
    script = repeating()
    live = Live().play(script.frames)
    known = len(script.frames)
    if sent:
        live.give(MessageSent(message_id=live.message_id, position=1))
    if taken:
        script.says(f"muster:{live.message_id}")
    live.play(script.fenced().frames[known:])

    assert live.view[0] == stage
    assert interventions(live.records, WHOSE)[0].receipts[-1].detail == "fenced"
    assert live.trajectory.pending_messages == []


def test_a_refused_message_expires_and_is_not_sent_again() -> None:
    live = Live().play(repeating().frames)
    live.give(MessageRefused(message_id=live.message_id, code="gone", detail="the epoch has ended"))

    assert live.view[0] == "expired"
    assert live.trajectory.pending_messages == []


def test_receipts_may_arrive_out_of_order() -> None:
    script = repeating()
    live = Live().play(script.frames)
    known = len(script.frames)
    script.seen(live.message_id).says(f"muster:{live.message_id}").step("ls", "a")
    live.play(script.frames[known:]).give(MessageSent(message_id=live.message_id, position=3))

    assert live.view == ("outcome", "heeded", ["issued", "stored", "delivered", "seen", "outcome"])
    assert live.trajectory.pending_messages == []


def test_message_of_a_person_is_issued_once_and_heeded_when_the_agent_continues() -> None:
    script = repeating(1)
    live = Live().play(script.frames)
    wanted = SteerRequested(message_id="msg_person", text="use tabs", sender="ada", urgent=False)
    live.give(wanted).give(wanted).give(MessageSent(message_id="msg_person", position=1))
    known = len(script.frames)
    script.says("muster:msg_person").seen("msg_person").step("ls", "a")
    live.play(script.frames[known:])

    assert live.kinds.count("issued") == 1
    assert live.view[:2] == ("outcome", "heeded")


def test_silence_is_decided_once_and_not_after_the_end() -> None:
    silence = SilenceObserved(heard_at=BEGAN, ttl_s=15)
    live = Live().play(repeating(1).frames).give(silence).give(silence)
    over = Live().play(repeating(1).finished().frames).give(silence)

    assert live.kinds == ["unresponsive"]
    assert live.trajectory.pending_replacement is not None
    assert over.kinds == []


def test_already_folded_frame_is_skipped() -> None:
    script = repeating()
    trajectory = Trajectory("sbx_one")
    for _ in range(2):
        for position, frame in enumerate(script.frames, 1):
            trajectory.take_frame(frame, position)

    assert len(trajectory.steps) == 4
