"""Decides from a worker's report and the output of the test command whether a task is completed."""

from typing import Literal

import msgspec

from muster.common.contracts.gateway import SandboxOutput
from muster.common.contracts.model_calls import Limit
from muster.common.contracts.sandbox_log import Outcome

TAIL = 4_000
NO_TEST = "no test command; only the worker reported success"


NO_CHANGE = (
    "the agent changed no file, but a task with a repository expects a change "
    "(`muster task submit --expect answer` says otherwise)"
)


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of a worker that has finished. The diff and the summary are as stored with the task."""

    outcome: Outcome
    error: str | None = None
    summary: str = ""
    diff: str = ""
    expects_change: bool = False
    question: bool = False
    limit: Limit | None = None


class ResultVerdict(msgspec.Struct, frozen=True):
    """The verdict on a worker's result: whether the task is completed, the evidence, and the error if it is not."""

    passed: bool
    validation: str
    error: str | None = None
    final: bool = False
    """Whether every further attempt would end with the same verdict."""


def wants_test(report: WorkerReport, test_command: str | None) -> bool:
    """Return whether the manager must run the test command: only if the worker reported success, and has a result."""
    return bool(test_command) and _refusal(report) is None


def judge(report: WorkerReport, output: SandboxOutput | None) -> ResultVerdict:
    """Return the verdict on a finished attempt; `output` is the output of the test command, None if it did not run."""
    if refusal := _refusal(report):
        return refusal
    if output is None:
        return ResultVerdict(passed=True, validation=NO_TEST)
    said = f"exit {output.exit_code} after {output.seconds:.1f} s\n{output.output[-TAIL:]}".rstrip()
    if output.exit_code == 0:
        return ResultVerdict(passed=True, validation=said)
    error = f"the test command failed with exit code {output.exit_code}"
    return ResultVerdict(passed=False, validation=said, error=error)


def _refusal(report: WorkerReport) -> ResultVerdict | None:
    """Return the verdict on a report that needs no test: the work failed, or nothing was changed. Else None."""
    if report.outcome != "success":
        why = report.error or f"the worker reported {report.outcome}"
        if report.question:
            why = f"{why}: {report.summary}"
        said = f"not tested: the worker reported {report.outcome}"
        final = report.outcome == "refused" or report.question or report.limit is not None
        return ResultVerdict(passed=False, validation=said, error=why, final=final)
    if report.expects_change and not report.diff.strip() and not report.error:
        return ResultVerdict(passed=False, validation="not tested: the agent changed no file", error=NO_CHANGE)
    return None


def could_not_test(why: str) -> ResultVerdict:
    """Return the verdict for a result whose test command could not run in the sandbox; `why` is the error."""
    return ResultVerdict(passed=False, validation=f"could not be tested: {why}", error=why)


def after_verdict(verdict: ResultVerdict, tries: int, most_attempts: int) -> Literal["completed", "retrying", "failed"]:
    """Return the next state of a task from the verdict on its result and from its number of attempts so far."""
    if verdict.passed:
        return "completed"
    return "failed" if verdict.final or tries >= most_attempts else "retrying"
