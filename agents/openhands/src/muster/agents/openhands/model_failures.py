"""Reads the gateway's reason from a failed model request, and decides whether the request may be repeated."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from muster.common.contracts.sandbox_log import Finished

if TYPE_CHECKING:
    from openhands.sdk.conversation.exceptions import ConversationRunError

_RETRYABLE = frozenset({408, 409, 425, 429})
"""Client errors of HTTP after which a retry may succeed."""
_FINAL = frozenset({403, 404})
"""HTTP statuses for a missing key, an unknown model or a limit; every attempt at the task would fail with them."""
_PAUSE_S = 2.0
"""Seconds until the next request if the gateway does not answer or asks for no pause."""
_LONGEST_PAUSE_S = 300.0
_CUT = "urn:muster:problem:model_answer_cut"
_MOST_CHARS = 2_000
_NOTHING_TO_CONDENSE = "NoCondensationAvailableException"
"""The SDK's error if the conversation is longer than the context window although it cannot be shortened."""
_TOO_LONG = (
    "the conversation is longer than the model's context window and cannot be shortened further: choose a model with a "
    "larger context window, or let the server of the model use a larger one"
)


def worth_retrying(failure: "ConversationRunError") -> bool:
    """Return whether the failure is temporary: the model did not answer, or a rate limit was reached."""
    return not _refused(failure.original_exception) and _kind(failure) in ("transient", "rate_limit")


def answer_was_cut(failure: "ConversationRunError") -> bool:
    """Return whether the run failed because the model's answer was cut at its limit of output tokens."""
    return any(_problem(error).get("type") == _CUT for error in _causes(failure.original_exception))


def result_of_failure(failure: "ConversationRunError") -> Finished:
    """Return the result of a run that a failed model request ended, with the gateway's reason if it gave one."""
    cause = failure.original_exception
    if type(cause).__name__ == _NOTHING_TO_CONDENSE:
        return Finished(outcome="refused", error=_TOO_LONG)
    for error in _causes(cause):
        detail = _problem(error).get("detail")
        if isinstance(detail, str):
            final = getattr(error, "status_code", None) in _FINAL
            return Finished(outcome="refused" if final else "error", error=detail[:_MOST_CHARS])
    return Finished(outcome="error", error=f"{_kind(failure)}: {type(cause).__name__}: {cause}"[:_MOST_CHARS])


def retry_after_s(error: BaseException | None) -> float:
    """Return the seconds that the gateway asks to wait before the request is repeated (`Retry-After`), or 2."""
    for cause in _causes(error):
        headers: Any = getattr(getattr(cause, "response", None), "headers", None) or {}
        try:
            return max(0.0, min(float(headers["retry-after"]), _LONGEST_PAUSE_S))
        except (KeyError, TypeError, ValueError):
            continue
    return _PAUSE_S


def _refused(error: BaseException | None) -> bool:
    """Return whether the gateway refused the request permanently. The SDK would treat a 403 as temporary."""
    for cause in _causes(error):
        status = getattr(cause, "status_code", None)
        if isinstance(status, int) and 400 <= status < 500 and status not in _RETRYABLE:  # noqa: PLR2004 - HTTP's classes
            return True
    return False


def _problem(error: BaseException) -> dict[str, object]:
    """Return the body of the gateway's error response; an empty dict for other errors."""
    body: object = getattr(error, "body", None)
    return cast("dict[str, object]", body) if isinstance(body, dict) else {}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _kind(failure: "ConversationRunError") -> str:
    from openhands.sdk.event.error_classification import classify_error

    cause = failure.original_exception
    return str(classify_error(type(cause).__name__, str(cause)).kind)
