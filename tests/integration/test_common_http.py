"""Answers on real sockets: in one piece where they are ready, and at once where they go on."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from muster.common import http
from muster.common.http import listening_socket, serving
from tests.support.patience import PATIENCE_S

LARGE = b"x" * (8 << 20)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class App:
    """An application with a path for each kind of answer."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        if scope["path"] == "/large":
            await self._answer(send, LARGE)
        elif scope["path"] == "/echo":
            await self._answer(send, await self._whole(receive))
        elif scope["path"] == "/feed":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await self.go_on.wait()
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await send({"type": "http.response.body", "body": b"last"})
        else:
            await self._answer(send, b"{}")

    async def _whole(self, receive: Receive) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        return body

    async def _answer(self, send: Send, body: bytes) -> None:
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def connected(app: App | None = None) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server of `app`."""
    bound = listening_socket(fd=None, host="127.0.0.1", port=0)
    async with serving(app or App(), [bound], grace_s=1), asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        yield reader, writer
        writer.close()


@asynccontextmanager
async def asking(app: App, path: str, *headers: str) -> AsyncGenerator[asyncio.StreamReader]:
    """What is answered to a GET of `path`."""
    async with connected(app) as (reader, writer):
        lines = [f"GET {path} HTTP/1.1", "host: here", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        yield reader


async def test_head_and_body_come_in_one_piece() -> None:
    async with asking(App(), "/") as answer:
        read = await answer.read(1 << 16)

    assert read.startswith(b"HTTP/1.1 200 OK\r\n")
    assert read.endswith(b"\r\n\r\n{}")


async def test_a_feed_s_head_does_not_wait_for_its_first_event() -> None:
    app = App()
    async with asking(app, "/feed") as answer:
        assert (await answer.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        app.go_on.set()
        assert await answer.readuntil(b"last\r\n0\r\n\r\n") == b"5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n"


async def test_what_was_written_before_the_end_arrives_before_it() -> None:
    async with asking(App(), "/large", "connection: close") as answer:
        read = await answer.read()

    assert len(read.partition(b"\r\n\r\n")[2]) == len(LARGE)


async def test_what_is_no_http_is_told_so() -> None:
    async with asking(App(), "/", "no header") as answer:
        assert (await answer.read()).startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_a_head_without_end_is_refused_before_it_costs_anything() -> None:
    async with connected() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: here\r\nx: ")
        writer.write(b"b" * http.MOST_HEAD_BYTES)
        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_many_heads_on_one_connection_count_apart() -> None:
    async with connected() as (reader, writer):
        for _ in range(10):
            writer.write(b"GET / HTTP/1.1\r\nhost: here\r\nx: " + b"b" * 20_000 + b"\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n{}")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nhost: here\r\n"])
async def test_a_head_that_does_not_come_is_not_waited_for(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_WITHIN_S", 0.2)
    async with connected() as (reader, writer):
        writer.write(begun)
        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_kept_connection_may_rest_and_a_feed_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_WITHIN_S", 0.1)
    app = App()
    async with connected(app) as (reader, writer):
        for path in ("/", "/feed"):
            writer.write(f"GET {path} HTTP/1.1\r\nhost: here\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n{}" if path == "/" else b"\r\n\r\n")
            await asyncio.sleep(0.3)
        app.go_on.set()
        assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"last\r\n0\r\n\r\n")


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
async def test_an_offer_to_upgrade_is_not_taken_and_the_body_is_there(offer: str) -> None:
    body = b'{"text": "of its own\r\nUpgrade: yes\r\n"}' + b"x" * 200_000
    head = f"POST /echo HTTP/1.1\r\nhost: here\r\nconnection: Upgrade\r\nUpgrade: {offer}\r\ncontent-length: {len(body)}\r\n\r\n"
    async with connected() as (reader, writer):
        for _ in range(2):
            writer.write(head.encode() + body)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(len(body)) == body


async def test_an_answer_to_a_client_that_has_gone_meanwhile_is_let_go() -> None:
    """On uvloop, as the services run: there a closed transport raises where asyncio's says nothing."""

    def gone() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_written_to_one_that_is_gone())

    await asyncio.to_thread(gone)


async def _written_to_one_that_is_gone() -> None:
    loop, failures = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    bound = listening_socket(fd=None, host="127.0.0.1", port=0)
    transport, _ = await loop.create_connection(asyncio.Protocol, *bound.getsockname())
    corked = http.Corked(transport, loop)
    corked.write(b"head")
    transport.abort()
    await asyncio.sleep(0.05)
    corked.write(b"late")
    await asyncio.sleep(0.05)
    bound.close()
    assert not failures
