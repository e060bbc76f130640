"""What the demo runs: three tasks, and what has to become of each."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
REPOS = HERE / "repos"
PACKAGE = "openhands"
PROVIDER = "scripted"
TEST_COMMAND = "python3 -m unittest -q"
DEADLINE_S = 105.0
"""For everything from the start of the stack to the last task's end; proving and stopping end within 120 s."""
REAL_MODEL_DEADLINE_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One task of the demo: its repository and script are named like it."""

    name: str
    title: str
    objective: str
    attempts: int = 1
    """How many it has to take."""
    steered: bool = False
    """The guardian has to say something, and it has to be heeded."""
    kill_after_actions: int | None = None
    """The first attempt's worker is killed with -9 once so many actions are in its log."""


BUGFIX = Case(
    name="bugfix",
    title="a bug is fixed until its test passes",
    objective=(
        "The tests of this repository fail: shares() in splitbill.py loses cents. "
        "Fix the bug without touching the tests, run `python3 -m unittest -q` until it passes, then finish."
    ),
)
LOOP = Case(
    name="loop",
    title="the agent repeats itself and is steered",
    objective=(
        "The tests of this repository fail: seconds() in durations.py misreads numbers of more than one digit. "
        "Fix it without touching the tests, run `python3 -m unittest -q` until it passes, then finish."
    ),
    steered=True,
)
CRASH = Case(
    name="crash",
    title="the worker is killed -9 and replaced",
    objective=(
        "Write slug() in slugs.py so that the tests of this repository pass. "
        "Run `python3 -m unittest -q`, commit your work, then finish."
    ),
    attempts=2,
    kill_after_actions=3,
)
CASES = (BUGFIX, LOOP, CRASH)
