"""Limits for connections of unknown and known clients on real sockets, and the choice of the connection that is closed."""

import asyncio
import resource
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from muster.common.connection_limits import ConnectionLimits
from muster.common.http import SET_OWNER, listening_socket, serving
from muster.common.service_process import open_as_many_files_as_allowed
from tests.support.patience import PATIENCE_S

STRANGERS, OF_ONE = 5, 3

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class App:
    """An application that recognises a client by the path; a path with the end `/wait` delays the response."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.waiting = asyncio.Event()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: object,
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """One request."""
        _, name, *wait = scope["path"].split("/")
        if name:
            scope["extensions"][SET_OWNER](name)
        if wait:
            self.waiting.set()
            await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})


class Server:
    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._writers = list[asyncio.StreamWriter]()

    async def line(self) -> Line:
        reader, writer = await asyncio.open_connection(*self._address)
        self._writers.append(writer)
        return reader, writer

    async def known(self, name: str) -> Line:
        line = await self.line()
        await answered(line, f"/{name}")
        return line

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def served(app: App) -> AsyncGenerator[Server]:
    bound = listening_socket(fd=None, host="127.0.0.1", port=0)
    server = Server(bound.getsockname())
    limits = ConnectionLimits(anonymous=STRANGERS, per_owner=OF_ONE)
    async with serving(app, [bound], grace_s=1, limits=limits), asyncio.timeout(PATIENCE_S):
        try:
            yield server
        finally:
            app.go_on.set()
            server.close()


def ask(line: Line, path: str) -> None:
    line[1].write(f"GET {path} HTTP/1.1\r\nhost: here\r\n\r\n".encode())


async def answer(line: Line) -> None:
    assert (await line[0].readuntil(b"\r\n\r\n{}")).startswith(b"HTTP/1.1 200 ")


async def answered(line: Line, path: str) -> None:
    ask(line, path)
    await answer(line)


async def closed(line: Line) -> None:
    with suppress(ConnectionResetError):
        assert await line[0].read() == b""


async def test_oldest_unknown_connections_are_closed_and_a_known_client_stays() -> None:
    async with served(App()) as server:
        known = await server.known("ada")
        strangers = [await server.line() for _ in range(STRANGERS * 3)]
        for line in strangers[:-STRANGERS]:
            await closed(line)
        await answered(known, "/ada")
        newcomer = await server.known("bob")
        await answered(newcomer, "/bob")
        await answered(strangers[-1], "/")


async def test_unknown_connection_that_becomes_known_frees_its_slot() -> None:
    async with served(App()) as server:
        lines = [await server.line() for _ in range(STRANGERS)]
        for number, line in enumerate(lines):
            await answered(line, f"/name{number}")
        more = [await server.line() for _ in range(STRANGERS)]
        for line in [*lines, *more]:
            await answered(line, "/")


async def test_longest_idle_connection_of_a_client_is_closed() -> None:
    app = App()
    async with served(app) as server:
        busy = await server.line()
        ask(busy, "/ada/wait")
        await app.waiting.wait()
        idle, used = await server.known("ada"), await server.known("ada")
        other = await server.known("bob")
        await answered(idle, "/ada")
        await server.known("ada")
        await closed(used)
        app.go_on.set()
        await answer(busy)
        for line in (idle, other):
            await answered(line, "/")


def test_service_raises_its_file_limit_to_that_of_its_user() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        open_as_many_files_as_allowed()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
