"""The error of a failed API call, and the exit code that each HTTP status leads to."""

from typing import Self

from muster.cli.console.output import OF_STATUS, Exit
from muster.common.contract import decode
from muster.common.contracts.problem import Problem
from muster.common.faults import InvalidMessage

_USAGE_STATUSES = frozenset({400, 405, 415, 422, 428})
"""Statuses that say that the request itself is wrong."""
_ARGUMENTS = frozenset({"task_id", "sandbox_id", "agent_id", "key_id", "user_id", "target"})
"""Fields that are arguments of a command. The API's error text contains their value, so the name is left out."""
_RETRYABLE = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may succeed later."""


class ApiCallError(Exception):
    """Raised when the API answers with an error status, cannot be reached or does not answer in time.

    `exit_code` is the exit code of the command, `problem` the API's error document if it sent one.
    """

    def __init__(
        self, text: str, exit_code: Exit, problem: Problem | None = None, *, status: int | None = None
    ) -> None:
        super().__init__(text)
        self.exit_code, self.problem = exit_code, problem
        self.status = problem.status if problem else status
        """HTTP status of the response; None if there was no response."""

    @classmethod
    def of(cls, status: int, body: bytes) -> Self:
        """Make the error for a response of status 400 or higher from the response's body."""
        code = exit_code(status)
        try:
            problem = decode(body, Problem)
        except InvalidMessage:
            return cls(f"the API answered with HTTP status {status}", code, status=status)
        return cls(_text(problem), code, problem)

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed if it is sent again soon."""
        if self.status is None:
            return self.exit_code in (Exit.UNREACHABLE, Exit.TIMEOUT)
        return self.status in _RETRYABLE


def exit_code(status: int) -> Exit:
    """Return the exit code of a command whose request got this HTTP status."""
    return OF_STATUS.get(status, Exit.USAGE if status in _USAGE_STATUSES else Exit.FAILURE)


def _text(problem: Problem) -> str:
    """Return the problem's detail, preceded by the field's name unless the field is an argument of the command."""
    path = problem.field or ""
    detail, name = problem.detail.removesuffix(f" - at `{path}`"), path.removeprefix("$").removeprefix(".")
    if not name or name in _ARGUMENTS or name in detail:
        return detail
    return f"{name}: {detail}"
