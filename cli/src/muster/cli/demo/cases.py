"""Defines the three tasks of the demo and the result that each must have."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
REPOS = HERE / "repos"
PACKAGE = "openhands"
PROVIDER = "scripted"
TEST_COMMAND = "python3 -m unittest -q"
DEADLINE_S = 105.0
"""Seconds from the start of the stack to the end of the last task. With the proofs and the stop of the stack the demo
takes less than 120 s."""
REAL_MODEL_DEADLINE_S = 300.0
"""Seconds from the start of the stack to the end of the task if `--model` names a real model."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task of the demo. `repos/<name>` is the task's repository, `scripts/<name>.json` its scripted model."""

    name: str
    title: str
    objective: str
    attempts: int = 1
    """Number of attempts that the task must take."""
    steered: bool = False
    """Whether the guardian must send a steering message that the agent heeds."""
    kill_after_actions: int | None = None
    """Number of actions in the log of the first attempt at which its worker is killed with -9; None: never."""


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
