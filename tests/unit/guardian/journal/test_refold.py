"""A repeated fold gives the same records after a crash anywhere, and every message ends in one state."""

from collections.abc import Callable, Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from muster.common.contract import encode
from muster.guardian.journal.domain.inputs import (
    GuardianInput,
    MessageRefused,
    MessageSent,
    SilenceObserved,
    SteerRequested,
)
from muster.guardian.journal.domain.refolding import Refold
from muster.guardian.journal.domain.task_reports import interventions
from tests.support.guardian_live import WHOSE, Live
from tests.support.sandbox_script import BEGAN, Script

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
    """Play possible moves; a move names a message by the last issued one."""
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
    inputs: dict[str, Callable[[str], GuardianInput]] = {
        "sent": lambda last: MessageSent(message_id=last, position=1),
        "refused": lambda last: MessageRefused(message_id=last, code="gone", detail=""),
        "steer": lambda _: SteerRequested(message_id=f"msg_{live.position}", text="t", sender="ada", urgent=False),
        "silence": lambda _: SilenceObserved(heard_at=BEGAN, ttl_s=15),
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
def test_guardian_killed_anywhere_finds_exactly_the_records_it_had_not_stored(
    moves: list[tuple[str, str]], data: st.DataObject
) -> None:
    live, script = played(moves)
    # A guardian can crash between any two appends. It appends an input only after all earlier decisions are stored.
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
