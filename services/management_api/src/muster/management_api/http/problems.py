"""Errors as `application/problem+json` (RFC 9457), and their description in the document."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException as StarletteHTTPException

from muster.common.contract import encode
from muster.common.contracts.problem import CONTENT_TYPE, problem
from muster.common.faults import (
    Fault,
    InvalidMessage,
    MethodNotAllowed,
    NotFound,
    PreconditionRequired,
    TooLarge,
    TooSlow,
    Transient,
)
from muster.common.trace import trace_id

RETRY_AFTER_S = 1
_RETRYABLE = frozenset({429, 503})


class Malformed(Fault):
    """The request contradicts itself or cannot be read."""

    status, code = 400, "malformed_request"


_BY_STATUS: dict[int, type[Fault]] = {
    one.status: one for one in (Malformed, NotFound, MethodNotAllowed, TooSlow, TooLarge)
}
_DETAILS = {404: "there is nothing at this path", 405: "this path has other methods, see `Allow`"}


def add_handlers(app: FastAPI) -> None:
    """Answer every expected error of the application's routes with a problem."""
    for kind in (Fault, RequestValidationError, StarletteHTTPException):
        app.add_exception_handler(kind, _answer)


async def _answer(connection: HTTPConnection, error: Exception) -> Response:
    told = refusal(error)
    if told.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        told.headers["Allow"] = ", ".join(_methods(connection))
    return told


def _methods(connection: HTTPConnection) -> list[str]:
    """Return every method of the path; Starlette names only those of the first route that matches it."""
    found = set[str]()
    for route in iter_route_contexts(connection.app.routes):
        if route.path_regex.match(connection.scope["path"]):
            found |= route.methods or set()
    return sorted(found | {"HEAD"} if "GET" in found else found)


def refusal(error: Exception) -> Response:
    """Return the response to a request that ended in `error`. For a bug it says nothing about the bug."""
    headers: dict[str, str] = {}
    match error:
        case RequestValidationError():
            fault = _invalid(error)
        case StarletteHTTPException():
            detail = _DETAILS.get(error.status_code, error.detail)
            fault = _BY_STATUS.get(error.status_code, Fault)(detail)
            headers |= error.headers or {}
        case Fault() | Transient():
            fault = Fault.of(error)
        case _:
            fault = Fault("internal error; the service's log has it under this request's id")
    retry_after_s: int | None = getattr(fault, "retry_after_s", RETRY_AFTER_S if fault.status in _RETRYABLE else None)
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    if fault.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="muster"'
    told = problem(fault, trace_id=trace_id() or None)
    return Response(encode(told), status_code=fault.status, media_type=CONTENT_TYPE, headers=headers)


def _invalid(error: RequestValidationError) -> Fault:
    """Return the first of the errors that FastAPI found."""
    first: dict[str, Any] = error.errors()[0]
    where, *steps = first["loc"]
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")[:200]
    field = name if where == "header" else f"$.{name}".removesuffix(".")
    if name == "If-Match":
        if first["type"] == "missing":
            return PreconditionRequired("read it, and send the ETag of the answer back as If-Match", field=field)
        return InvalidMessage('send one ETag as it came, quotes included: If-Match: "3"', field=field)
    match first["type"]:
        case "missing":
            says = "is missing" if name else "send a JSON body"
        case "extra_forbidden":
            says = "there is no such parameter"
        case "string_pattern_mismatch":
            says = f"must have the form {first['ctx']['pattern']}"
        case _:
            says = str(first["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return InvalidMessage(f"{name}: {says}" if name else says, field=field[:200])
