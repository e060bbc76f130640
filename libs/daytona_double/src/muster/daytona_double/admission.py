"""What happens to a request before its route: the key is checked, due changes are applied, and faults strike."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Annotated, cast

from fastapi import Depends
from fastapi.requests import HTTPConnection

from muster.daytona_double.refusals import PROXY, Refusal, bad_request, conflict
from muster.daytona_double.requests import DoubleState, state_of
from muster.daytona_double.sandbox_record import DoubleSandbox

ABORT = "daytona_double.abort"
"""The ASGI extension that closes the connection at once."""
API_PREFIX, TOOLBOX_PREFIX = "/api", "/toolbox"
CHANGES = {"start", "stop", "archive", "pause", "recover", "fork", "snapshot", "resize"}
"""Last parts of the paths that change a sandbox's state."""


async def admit(connection: HTTPConnection) -> None:
    """Refuse a wrong key, and let faults strike. A dependency of every route of Daytona's APIs."""
    state = state_of(connection)
    method = connection.scope.get("method", "WEBSOCKET")
    template = cast("str", connection.scope["route"].path).removeprefix(TOOLBOX_PREFIX)
    state.requests[f"{method} {template}"] = state.requests.get(f"{method} {template}", 0) + 1
    _check_key(connection, state)
    state.sandboxes.settle()
    route = f"{method} {below(connection.url.path)}"
    record = _sandbox_of(connection, state)
    names = record.names if record else ()
    if fault := state.faults.take("slow", route=route, sandbox=names):
        await asyncio.sleep(fault.seconds)
        state.sandboxes.settle()
    if record and state.faults.take("vanish", route=route, sandbox=names):
        state.sandboxes.vanish(record)
    _refuse(state, route, names)


def _check_key(connection: HTTPConnection, state: DoubleState) -> None:
    given = connection.headers.get("authorization", "")
    if not secrets.compare_digest(given.encode(), f"Bearer {state.api_key}".encode()):
        raise Refusal(401, "Invalid credentials", code="UNAUTHORIZED")


def below(path: str) -> str:
    """Return the path below the URL of the API, or below that of the sandbox's toolbox."""
    if path.startswith(TOOLBOX_PREFIX):
        return "/" + path.removeprefix(TOOLBOX_PREFIX + "/").partition("/")[2]
    return path.removeprefix(API_PREFIX)


def _sandbox_of(connection: HTTPConnection, state: DoubleState) -> DoubleSandbox | None:
    named = connection.path_params.get("id_or_name") or connection.path_params.get("sandbox_id")
    if not named:
        return None
    try:
        return state.sandboxes.find(named)
    except Refusal:
        return None  # The route answers this as it should.


def _refuse(state: DoubleState, route: str, names: tuple[str, ...]) -> None:
    """Raise the refusal of the first fault that strikes."""
    faults = state.faults
    if faults.take("unauthorized", route=route, sandbox=names):
        raise Refusal(401, "Invalid credentials", code="UNAUTHORIZED")
    if fault := faults.take("rate-limit", route=route, sandbox=names):
        headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        raise Refusal(429, "ThrottlerException: Too Many Requests", headers=headers)
    if fault := faults.take("unavailable", route=route, sandbox=names):
        headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        raise Refusal(503, "Service Unavailable", headers=headers)
    if _uses_quota(route) and faults.take("quota", route=route, sandbox=names):
        raise bad_request(f"Total CPU limit exceeded. Maximum allowed: {state.settings.max_cpu}.")
    if _changes_state(route) and faults.take("conflict", route=route, sandbox=names):
        raise conflict("Sandbox state change in progress")


def _uses_quota(route: str) -> bool:
    return route == "POST /sandbox" or route.endswith("/start")


def _changes_state(route: str) -> bool:
    method, _, path = route.partition(" ")
    return path.startswith("/sandbox/") and (method == "DELETE" or path.rpartition("/")[2] in CHANGES)


async def abort(connection: HTTPConnection) -> None:
    """Close the connection of a request without an answer. Whatever is sent afterwards is ignored."""
    close = cast("Callable[[], None]", connection.scope["extensions"][ABORT])
    close()
    await asyncio.sleep(0)  # uvicorn now learns that the connection is closed, and does not report a missing answer.


def started_sandbox(connection: HTTPConnection, sandbox_id: str) -> DoubleSandbox:
    """Return the sandbox of a request to the toolbox, and count the request as activity.

    Raises `Refusal`: 404 if there is no such sandbox, 400 if it is not started.
    """
    state = state_of(connection)
    try:
        record = state.sandboxes.find(sandbox_id)
    except Refusal:
        raise Refusal(404, f"Sandbox {sandbox_id} not found", code="NOT_FOUND", source=PROXY) from None
    if record.state.value != "started":
        message = f"bad request: the sandbox is {record.state.value}. Is the Sandbox started?"
        raise Refusal(400, message, code="BAD_REQUEST", source=PROXY)
    state.sandboxes.touch(record)
    return record


Started = Annotated[DoubleSandbox, Depends(started_sandbox)]
