"""A WebSocket route checks permissions with `requires`, as every other route, before the WebSocket is accepted."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from fastapi import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from muster.common.contract import decode
from muster.common.contracts.audit import Audited
from muster.common.contracts.problem import Problem
from muster.common.faults import NotFound
from muster.common.http import listening_socket, serving
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.http.route import routes_of
from tests.support.api_application import AS_ADMIN, in_process

echoes = routes_of("/api/v1/echo", "tasks")


@echoes.websocket("")
async def echo(websocket: WebSocket, caller: Annotated[Principal, requires("operator", "tasks:write")]) -> None:
    """Send every message back."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(f"{caller.name}: {text}")


@echoes.websocket("/broken")
async def broken(websocket: WebSocket, _: Annotated[Principal, requires("viewer", "tasks:read")]) -> None:
    """Raise a fault after the WebSocket was accepted."""
    await websocket.accept()
    raise NotFound


@asynccontextmanager
async def listening(audited: list[Audited]) -> AsyncGenerator[str]:
    """Serve the route as the service does; yield its address."""

    async def record(entry: Audited) -> None:
        audited.append(entry)

    bound: socket.socket = listening_socket(fd=None, host="127.0.0.1", port=0)
    app = in_process(routers=[echoes], record=record)
    async with serving(app, [bound], grace_s=1, websockets=True):
        yield f"ws://127.0.0.1:{bound.getsockname()[1]}/api/v1/echo"


async def test_known_caller_can_use_a_websocket():
    audited: list[Audited] = []
    async with listening(audited) as url, connect(url, additional_headers=AS_ADMIN) as told:
        for text in ("one", "two"):
            await told.send(text)
            assert await told.recv() == f"user:admin: {text}"

    assert audited == []


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
async def test_an_unknown_caller_is_refused_with_a_problem_and_audited(headers: dict[str, str]):
    audited: list[Audited] = []
    async with listening(audited) as url:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, additional_headers=headers)

    answer = refused.value.response
    problem = decode(bytes(answer.body or b""), Problem)
    assert (answer.status_code, problem.status) == (401, 401)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["x-trace-id"] == problem.trace_id
    assert [(one.action, one.what, one.outcome) for one in audited] == [
        ("unauthenticated", "WEBSOCKET /api/v1/echo", "refused")
    ]


async def test_a_path_without_a_websocket_is_refused():
    async with listening([]) as url:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{url}/nowhere", additional_headers=AS_ADMIN)

    assert refused.value.response.status_code == 403


async def test_fault_closes_an_open_websocket():
    async with listening([]) as url, connect(f"{url}/broken", additional_headers=AS_ADMIN) as told:
        with pytest.raises(ConnectionClosed):
            await told.recv()
