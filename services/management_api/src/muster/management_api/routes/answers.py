"""What goes out: contracts as JSON, faults as problems."""

from collections.abc import Iterable

from starlette.responses import Response

from muster.common.contract import Message, encode
from muster.common.contracts import problem as problems
from muster.common.faults import Fault
from muster.common.trace import traceparent
from muster.management_api.domain.roles import MethodNotAllowed

RETRY_AFTER_S = 1
_RETRYABLE = frozenset({429, 503})


def answer(message: Message, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A contract as the reply."""
    return Response(encode(message), status_code=status, media_type="application/json", headers=headers)


def etag(version: int) -> dict[str, str]:
    """The header that names this version of what is answered (RFC 9110, 8.8.3)."""
    return {"ETag": f'"{version}"'}


def refusal(fault: Fault, headers: dict[str, str] | None = None) -> Response:
    """A fault as the reply. What it knows besides, it says in `retry_after_s` and `allowed`."""
    told = problems.problem(fault, trace_id=traceparent().split("-")[1])
    headers = dict(headers or {})
    retry_after_s: int | None = getattr(fault, "retry_after_s", RETRY_AFTER_S if fault.status in _RETRYABLE else None)
    if retry_after_s is not None:
        headers.setdefault("Retry-After", str(retry_after_s))
    if allowed := getattr(fault, "allowed", None):
        headers.setdefault("Allow", ", ".join(sorted(allowed)))
    if fault.status == 401:  # noqa: PLR2004 - RFC 9110 wants the scheme named
        headers["WWW-Authenticate"] = 'Bearer realm="muster"'
    return Response(encode(told), status_code=fault.status, media_type=problems.CONTENT_TYPE, headers=headers)


def method_not_allowed(method: str, allowed: Iterable[str]) -> Response:
    """The answer to a method that a path does not have."""
    names = ", ".join(sorted(allowed))
    return refusal(MethodNotAllowed(f"{method[:20]} is not possible here, only {names}"), {"Allow": names})
