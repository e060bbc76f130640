"""The HTTP server on real sockets: limits of a head, upgrade offers, WebSockets and signals."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect

from muster.common import http
from muster.common.connection_limits import ConnectionLimits
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
        """One request, or one WebSocket connection."""
        if scope["type"] == "websocket":
            await self._echo(receive, send)
        elif scope["path"] == "/large":
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

    async def _echo(self, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "websocket.connect"}
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

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
async def connected(
    app: App | None = None, *, websockets: bool = False
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection to a server of `app`."""
    bound = listening_socket(fd=None, host="127.0.0.1", port=0)
    async with serving(app or App(), [bound], grace_s=1, websockets=websockets), asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        yield reader, writer
        writer.close()


@asynccontextmanager
async def asking(app: App, path: str, *headers: str) -> AsyncGenerator[asyncio.StreamReader]:
    """Return the response to a GET of `path`."""
    async with connected(app) as (reader, writer):
        lines = [f"GET {path} HTTP/1.1", "host: here", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        yield reader


async def test_a_feed_s_head_does_not_wait_for_its_first_event() -> None:
    app = App()
    async with asking(app, "/feed") as answer:
        assert (await answer.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        app.go_on.set()
        assert await answer.readuntil(b"last\r\n0\r\n\r\n") == b"5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n"


async def test_data_written_before_the_end_arrives_before_it() -> None:
    async with asking(App(), "/large", "connection: close") as answer:
        read = await answer.read()

    assert len(read.partition(b"\r\n\r\n")[2]) == len(LARGE)


async def test_bytes_that_are_not_http_get_an_error_response() -> None:
    async with asking(App(), "/", "no header") as answer:
        assert (await answer.read()).startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_endless_head_is_refused_before_it_uses_memory() -> None:
    async with connected() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: here\r\nx: ")
        writer.write(b"b" * http.MOST_HEAD_BYTES)
        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "endless", [b"0\r\n" + b"x: y\r\n" * 12_000, b"0\r\nx: " + b"y" * 70_000, b"1;" + b"x" * 70_000]
)
async def test_endless_trailers_and_chunk_extensions_are_refused(endless: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n{}")).startswith(b"HTTP/1.1 200 ")
        # The last byte exceeds the limit, and no byte is left unread.
        writer.write(endless[: http.MOST_HEAD_BYTES + 1])
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")


async def test_heads_on_one_connection_are_counted_separately() -> None:
    async with connected() as (reader, writer):
        for _ in range(10):
            writer.write(b"GET / HTTP/1.1\r\nhost: here\r\nx: " + b"b" * 20_000 + b"\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n{}")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nhost: here\r\n"])
async def test_missing_head_times_out(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_WITHIN_S", 0.2)
    async with connected() as (reader, writer):
        writer.write(begun)
        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_idle_keep_alive_connection_and_silent_feed_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_WITHIN_S", 0.1)
    app = App()
    async with connected(app) as (reader, writer):
        for path in ("/", "/feed"):
            writer.write(f"GET {path} HTTP/1.1\r\nhost: here\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n{}" if path == "/" else b"\r\n\r\n")
            await asyncio.sleep(0.3)
        app.go_on.set()
        assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"last\r\n0\r\n\r\n")


OFFERING = (
    "POST /echo HTTP/1.1\r\nhost: here\r\nconnection: Upgrade\r\nUpgrade: {offer}\r\ncontent-length: {length}\r\n\r\n"
)


@pytest.mark.parametrize(
    ("offer", "websockets"), [("h2c", False), ("websocket", False), ("h2c", True), ("websocket", True)]
)
async def test_upgrade_offer_that_the_server_does_not_accept_is_ignored_and_the_body_arrives(
    offer: str, websockets: bool
) -> None:
    body = b'{"text": "of its own\r\nUpgrade: yes\r\n"}' + b"x" * 200_000
    head = OFFERING.format(offer=offer, length=len(body)).encode()
    async with connected(websockets=websockets) as (reader, writer):
        for _ in range(2):
            writer.write(head + body)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(len(body)) == body


async def test_several_requests_with_an_offer_in_one_piece_are_all_answered() -> None:
    bodies = [b"first", b"second", b"third"]
    async with connected() as (reader, writer):
        heads = [OFFERING.format(offer="h2c", length=len(body)).encode() for body in bodies]
        writer.write(b"".join(head + body for head, body in zip(heads, bodies, strict=True)))
        for body in bodies:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(len(body)) == body


async def test_body_that_comes_after_a_head_with_an_offer_arrives() -> None:
    async with connected() as (reader, writer):
        head = OFFERING.format(offer="h2c\r\nexpect: 100-continue", length=4)
        writer.write(head.encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await reader.readuntil(b"\r\n\r\nbody")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_offer_on_a_connection_that_closes_after_the_answer_is_ignored_too(version: str) -> None:
    head = OFFERING.format(offer="h2c", length=4).replace("Upgrade\r\n", "Upgrade, close\r\n").replace("1.1", version)
    async with connected() as (reader, writer):
        writer.write(head.encode() + b"body")
        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize("offer", [b"", b"connection: upgrade\r\nupgrade: h2c\r\n"])
async def test_connect_is_refused(offer: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(b"CONNECT elsewhere:80 HTTP/1.1\r\nhost: elsewhere:80\r\n" + offer + b"\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")


async def test_websocket_handshake_reaches_the_application_where_websockets_are_on() -> None:
    bound = listening_socket(fd=None, host="127.0.0.1", port=0)
    address, port = bound.getsockname()
    async with (
        asyncio.timeout(PATIENCE_S),
        serving(App(), [bound], grace_s=1, websockets=True),
        connect(f"ws://{address}:{port}/", proxy=None) as websocket,
    ):
        for text in ("hello", "x" * 200_000):
            await websocket.send(text)
            assert await websocket.recv() == text


async def test_connection_limits_and_websockets_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="connection limits"):
        async with serving(App(), [], grace_s=1, limits=ConnectionLimits(anonymous=1, per_owner=1), websockets=True):
            raise AssertionError


async def test_serving_leaves_signals_to_the_service() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with asking(App(), "/") as answer:
        await answer.readuntil(b"\r\n\r\n{}")
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
