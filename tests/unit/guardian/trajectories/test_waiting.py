"""An agent that waits, for instance for a build, does not repeat itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.guardian.trajectories.domain.waiting import LONGEST_COMMAND, Waiting, waiting
from tests.support.guardian_live import Live
from tests.support.sandbox_script import Script


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("sleep 3", Waiting.ONLY),
        ("sleep 3; echo 7", Waiting.ONLY),
        ("sleep 3 && echo 'still; waiting' && date", Waiting.ONLY),
        ("for i in 1 2 3; do sleep 1; echo $i; done", Waiting.ONLY),
        ("while true; do sleep 1; done", Waiting.ONLY),
        ("N=3 sleep 1\nwait", Waiting.ONLY),
        ("sleep 30; tail -1 build.log", Waiting.PARTLY),
        ("sleep 5; echo $(cat status)", Waiting.PARTLY),
        ("sleep 5; echo `cat status`", Waiting.PARTLY),
        ("sleep 5; echo done > status", Waiting.PARTLY),
        ("sleep 5; echo done 2>status", Waiting.PARTLY),
        ("until curl -s localhost; do sleep 1; done", Waiting.PARTLY),
        ("make & wait", Waiting.PARTLY),
        ("sleep 5 # for the build\nmake clean", Waiting.PARTLY),
        ("", Waiting.PARTLY),
        ("pytest -q", Waiting.NONE),
        ("echo sleep", Waiting.NONE),
        ("cat sleep; ./sleep-well", Waiting.NONE),
        ("echo 'sleep 3", Waiting.NONE),
        ("sleep 1;" + "x" * LONGEST_COMMAND, Waiting.NONE),
    ],
)
def test_waiting_part_of_a_command_is_recognised(command: str, found: Waiting) -> None:
    assert waiting(command) is found


@given(st.text(alphabet=st.characters() | st.sampled_from(list(" ;&|()'\"\\$`\n#"))))
def test_any_text_can_be_judged(command: str) -> None:
    assert waiting(command) in Waiting


def kinds(*steps: tuple[str, str]) -> list[str]:
    script = Script()
    for command, output in steps:
        script.step(command, output)
    return Live().play(script.frames).kinds


@pytest.mark.parametrize(
    "steps",
    [
        [(f"sleep 3; echo {n}", str(n)) for n in range(8)],
        [("sleep 60", "")] * 8,
        [("sleep 30; tail -1 build.log", f"[{n}/90] compiling") for n in range(8)],
        [("", f"{n} % done") for n in range(8)],
    ],
    ids=["a loop that counts", "nothing but waiting", "a build is polled", "more output of a running command"],
)
def test_waiting_is_not_a_finding(steps: list[tuple[str, str]]) -> None:
    assert kinds(*steps) == []


@pytest.mark.parametrize(
    "steps",
    [
        [("sleep 1; pytest -q", f"1 failed in 0.{n}s") for n in range(4)],
        [("sleep 30; tail -1 build.log", "error: no such file")] * 4,
        [("", "Password:")] * 4,
        [("make", f"took {n}.5 ms, pid {4000 + n}") for n in range(4)],
    ],
    ids=["a test after a pause", "a build that has ended", "a program that waits for input", "numbers without a wait"],
)
def test_waiting_for_nothing_new_is_a_finding(steps: list[tuple[str, str]]) -> None:
    assert kinds(*steps) == ["finding", "issued"]


def test_pause_ends_the_row_of_equal_steps() -> None:
    assert kinds(("make", "error"), ("make", "error"), ("sleep 9", ""), ("make", "error"), ("make", "error")) == []
