"""The API said no, in the words of a person at the command line."""

from typing import Self

from muster.cli.console.output import OF_STATUS, Exit
from muster.common.contract import decode
from muster.common.contracts.problem import Problem
from muster.common.faults import InvalidMessage

_MISTAKES = frozenset({400, 405, 415, 422, 428})
_ARGUMENTS = frozenset({"task_id", "sandbox_id", "agent_id", "key_id", "user_id", "target"})
"""Fields that are arguments of a command; the text names their value."""
_RETRYABLE = frozenset({429, 502, 503, 504})


class ApiCallError(Exception):
    """The API said no, or could not be reached. `exit_code` is what the command ends with."""

    def __init__(
        self, text: str, exit_code: Exit, problem: Problem | None = None, *, status: int | None = None
    ) -> None:
        super().__init__(text)
        self.exit_code, self.problem = exit_code, problem
        self.status = problem.status if problem else status
        """Of the answer; None where none came."""

    @classmethod
    def of(cls, status: int, body: bytes) -> Self:
        """From an answer of 400 or more."""
        code = exit_code(status)
        try:
            problem = decode(body, Problem)
        except InvalidMessage:
            return cls(f"the API answered {status}", code, status=status)
        return cls(_worded(problem), code, problem)

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed soon."""
        if self.status is None:
            return self.exit_code in (Exit.UNREACHABLE, Exit.TIMEOUT)
        return self.status in _RETRYABLE


def exit_code(status: int) -> Exit:
    """How a command ends that was answered so."""
    return OF_STATUS.get(status, Exit.USAGE if status in _MISTAKES else Exit.FAILURE)


def _worded(problem: Problem) -> str:
    """The field by its name, an argument not as a field."""
    path = problem.field or ""
    detail, name = problem.detail.removesuffix(f" - at `{path}`"), path.removeprefix("$").removeprefix(".")
    if not name or name in _ARGUMENTS or name in detail:
        return detail
    return f"{name}: {detail}"
