"""Answers errors of routes with responses of the type `application/problem+json` (RFC 9457)."""

import math
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
    """The request cannot be parsed, or its parts contradict each other."""

    status, code = 400, "malformed_request"


_BY_STATUS: dict[int, type[Fault]] = {
    one.status: one for one in (Malformed, NotFound, MethodNotAllowed, TooSlow, TooLarge)
}
_DETAILS = {404: "the API has no route at this path", 405: "this path has other methods; see the header `Allow`"}


def add_handlers(app: FastAPI) -> None:
    """Make the application answer every expected error of its routes with a problem+json response."""
    for kind in (Fault, RequestValidationError, StarletteHTTPException):
        app.add_exception_handler(kind, _answer)


async def _answer(connection: HTTPConnection, error: Exception) -> Response:
    told = refusal(error)
    if told.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        told.headers["Allow"] = ", ".join(_methods(connection))
    return told


def _methods(connection: HTTPConnection) -> list[str]:
    """Return all HTTP methods that the request's path accepts.

    Starlette itself would return only the methods of the first route with this path.
    """
    found = set[str]()
    for route in iter_route_contexts(connection.app.routes):
        if route.path_regex.match(connection.scope["path"]):
            found |= route.methods or set()
    return sorted(found | {"HEAD"} if "GET" in found else found)


def refusal(error: Exception) -> Response:
    """Return the response to a request that failed with `error`. The text of an unexpected error is not sent."""
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
            fault = Fault("internal error; find it in the API's log with the trace_id of this response")
    retry_after_s = fault.retry_after_s
    if retry_after_s is None and fault.status in _RETRYABLE:
        retry_after_s = RETRY_AFTER_S
    if retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(retry_after_s))
    if fault.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="muster"'
    told = problem(fault, trace_id=trace_id() or None)
    return Response(encode(told), status_code=fault.status, media_type=CONTENT_TYPE, headers=headers)


def _invalid(error: RequestValidationError) -> Fault:
    """Return the fault for the first validation error that FastAPI has found in a request."""
    first: dict[str, Any] = error.errors()[0]
    where, *steps = first["loc"]
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")[:200]
    field = name if where == "header" else f"$.{name}".removesuffix(".")
    if name == "If-Match":
        if first["type"] == "missing":
            return PreconditionRequired("If-Match is missing; read the agent, then send its ETag", field=field)
        return InvalidMessage('send one unchanged ETag with its quotes, such as If-Match: "3"', field=field)
    match first["type"]:
        case "missing":
            says = "is missing" if name else "send a JSON body"
        case "extra_forbidden":
            says = "the API has no such parameter"
        case "string_pattern_mismatch":
            says = f"must have the form {first['ctx']['pattern']}"
        case _:
            says = str(first["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return InvalidMessage(f"{name}: {says}" if name else says, field=field[:200])
