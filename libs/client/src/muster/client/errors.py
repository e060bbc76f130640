"""The errors of API calls. No error text contains the client's key.

ApiCallError                 base class: an API call failed
├── ApiStatusError           the API answered with an error status
├── ApiUnreachableError      the connection failed, or was cut before the response
├── ApiTimeoutError          no response arrived within the deadline
└── UnexpectedReplyError     the server at this URL does not answer as a Muster API
"""

from typing import Self

from muster.common.contract import decode
from muster.common.contracts.problem import Problem
from muster.common.faults import InvalidMessage

RETRYABLE = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may succeed later."""
_IN_PATHS = frozenset({"task_id", "sandbox_id", "agent_id", "key_id", "user_id", "target"})
"""Fields that stand in the path of a request. The API's text contains their value, so the name is left out."""


class ClientSettingsError(ValueError):
    """Raised by the constructor of a client if the URL or the key is missing or not valid."""


class ApiCallError(Exception):
    """Base class of all errors that an API call raises."""

    @property
    def status(self) -> int | None:
        """HTTP status of the response; None if no readable response arrived."""
        return None

    @property
    def problem(self) -> Problem | None:
        """The error document in the API's response; None if the response contains none."""
        return None

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed if the client sends it again soon."""
        return False


class ApiStatusError(ApiCallError):
    """Raised when the API answers with a status of 400 or higher."""

    def __init__(self, status: int, problem: Problem | None = None, *, retry_after_s: float | None = None) -> None:
        super().__init__(_text(problem) if problem else f"the API answered with HTTP status {status}")
        self._status, self._problem = status, problem
        self.retry_after_s = retry_after_s
        """Seconds after which the API expects the request again; None if it did not say so."""

    @classmethod
    def of(cls, status: int, body: bytes, *, retry_after_s: float | None = None) -> Self:
        """Create the error for a response from the status and the body of the response."""
        try:
            problem = decode(body, Problem)
        except InvalidMessage:
            problem = None
        return cls(problem.status if problem else status, problem, retry_after_s=retry_after_s)

    @property
    def status(self) -> int:
        """HTTP status of the response."""
        return self._status

    @property
    def problem(self) -> Problem | None:
        """The error document in the API's response: type, title, detail, field and trace id; None if it is missing."""
        return self._problem

    @property
    def field(self) -> str | None:
        """JSON path of the request field that the API refuses, for instance `$.labels`; None for other errors."""
        return self.problem.field if self.problem else None

    @property
    def retryable(self) -> bool:
        """Whether the status (429, 502, 503 or 504) means that the same request may succeed later."""
        return self.status in RETRYABLE


class ApiUnreachableError(ApiCallError):
    """Raised when the API cannot be reached, or the connection is cut before the response."""

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later: always true, because the API may be reachable again soon."""
        return True


class ApiTimeoutError(ApiCallError):
    """Raised when the response does not arrive in time. The API may have performed the request."""

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later: always true, because the API may then answer in time."""
        return True


class UnexpectedReplyError(ApiCallError):
    """Raised when a response does not come from a Muster API. Usually the URL belongs to another server."""


def _text(problem: Problem) -> str:
    """Return the problem's detail; put the field's name before it, unless the field is part of the URL path."""
    path = problem.field or ""
    detail, name = problem.detail.removesuffix(f" - at `{path}`"), path.removeprefix("$").removeprefix(".")
    if not name or name in _IN_PATHS or name in detail:
        return detail
    return f"{name}: {detail}"
