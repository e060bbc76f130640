"""What a worker's `finished` is worth."""

from typing import Literal

import msgspec

from muster.common.contracts.gateway import SandboxOutput
from muster.common.contracts.sandbox_log import Outcome

TAIL = 4_000
NO_TEST = "no test command; the worker's word only"


class ResultVerdict(msgspec.Struct, frozen=True):
    """Whether the task is done, how that was found out, and what is wrong where it is not."""

    passed: bool
    validation: str
    error: str | None = None
    final: bool = False
    """Whether every other attempt would end the same way."""


def wants_test(outcome: Outcome, test_command: str | None) -> bool:
    """Whether the test command decides: only a worker that claims success is tested."""
    return outcome == "success" and bool(test_command)


def judge(outcome: Outcome, error: str | None, output: SandboxOutput | None) -> ResultVerdict:
    """The verdict on a finished attempt; `output` is the test command's, where there was one to run."""
    if outcome != "success":
        why = error or f"the worker reported {outcome}"
        said = f"not tested: the worker reported {outcome}"
        return ResultVerdict(passed=False, validation=said, error=why, final=outcome == "refused")
    if output is None:
        return ResultVerdict(passed=True, validation=NO_TEST)
    said = f"exit {output.exit_code} after {output.seconds:.1f} s\n{output.output[-TAIL:]}".rstrip()
    if output.exit_code == 0:
        return ResultVerdict(passed=True, validation=said)
    error = f"the test command failed with exit code {output.exit_code}"
    return ResultVerdict(passed=False, validation=said, error=error)


def could_not_test(why: str) -> ResultVerdict:
    """The sandbox refused to run the test."""
    return ResultVerdict(passed=False, validation=f"could not be tested: {why}", error=why)


def after_verdict(verdict: ResultVerdict, tries: int, most_attempts: int) -> Literal["completed", "retrying", "failed"]:
    """The task's next state."""
    if verdict.passed:
        return "completed"
    return "failed" if verdict.final or tries >= most_attempts else "retrying"
