"""Serves ASGI applications with uvicorn and httptools, on sockets that were inherited or are bound here.

A sandbox connects to its gateway with no proxy between, so `Protocol` adds the bounds that uvicorn lacks;
`docs/operations.md` says what a reverse proxy does beyond them. For members that depend on uvicorn.
"""

import asyncio
import functools
import os
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from muster.common.crowd import Crowd

BACKLOG = 2048
MOST_HEAD_BYTES = 65_536
"""Of a head that is not complete yet, and of trailers."""
HEAD_WITHIN_S = 15.0
"""From a connection's start, or a later request's first byte, until its head is complete."""
VOUCH = "muster.vouch"
"""The ASGI extension by which an application says whose connection it is: `vouch(name)`."""
_END = b"content-type: text/plain\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_LATE, _LONG = b"HTTP/1.1 408 Request Timeout\r\n" + _END, b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _END


class HttpServer(uvicorn.Server):
    """uvicorn without its own signal handling: the service decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to the service."""
        yield


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with three additions.

    Refuses a head that comes too slowly, and more than `MOST_HEAD_BYTES` without the end of a head or a piece of a
    body. uvicorn bounds neither and keeps all trailers in memory; the parser's work grows with the square of a
    header's length.

    Ignores an offer to upgrade, unless to WebSocket where that is on. Java's client offers `h2c` with its first
    request. The parser stops at an offer, and uvicorn then drops the body; here the parser reads the head again
    without the offer.

    Tells `crowd` of each connection, and lets the application say whose it is.
    """

    parser: httptools.HttpRequestParser
    _unbounded_bytes = 0
    _in_head = True
    _late: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, crowd: Crowd | None = None, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **kwargs)
        self._crowd = crowd

    @property
    def busy(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self.cycle) and not self.cycle.response_complete

    def shut(self) -> None:
        """Close the connection at once, because the crowd needs its place."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's."""
        super().connection_made(transport)
        self._await_head()
        if self._crowd is not None:
            self._crowd.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        self._stop_waiting()
        if self._crowd is not None:
            self._crowd.gone(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, except for offers to upgrade."""
        self._unset_keepalive_if_required()
        self._unbounded_bytes += len(data)
        try:
            while data:
                data = self._parsed(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._unbounded_bytes > MOST_HEAD_BYTES:
            self._refuse(_LONG)
        elif self._in_head:  # most heads come in one piece and need no timer
            self._await_head()

    def _parsed(self, data: bytes) -> bytes:
        """Parse `data`. After an ignored offer, return the same head without it and the bytes that follow."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return b""
            lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            if len(lines) == len(self.headers):  # CONNECT: the same head would stop the parser again and again
                raise httptools.HttpParserError from None
            version = self.parser.get_http_version().encode()
            first = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
            self.parser = httptools.HttpRequestParser(self)  # the old one reads nothing after `connection: close`
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
            return b"".join([first, *lines, b"\r\n", data[offer.args[0] :]])
        return b""

    def _should_upgrade(self) -> bool:
        """As uvicorn's, but for a handshake only: a `GET` without a body. Of others the rest would never be read."""
        framed = {name for name, _ in self.headers} & {b"content-length", b"transfer-encoding"}
        return super()._should_upgrade() and self.parser.get_method() == b"GET" and not framed

    @property
    def _offer_ignored(self) -> bool:
        return self.parser.should_upgrade() and not self._should_upgrade()

    def on_message_begin(self) -> None:
        """As uvicorn's."""
        super().on_message_begin()
        self._in_head = True
        if self._crowd is not None:
            vouch: Any = functools.partial(self._crowd.vouched, self)
            self.scope["extensions"] = {VOUCH: vouch}

    def on_headers_complete(self) -> None:
        """As uvicorn's."""
        self._stop_waiting()
        self._in_head, self._unbounded_bytes = False, 0
        if not self._offer_ignored:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """As uvicorn's."""
        self._unbounded_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """As uvicorn's."""
        if not self._offer_ignored:
            super().on_message_complete()

    def _await_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_WITHIN_S, self._refuse, _LATE)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, answer: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self.busy:  # else it would stand in the middle of an answer
            self.transport.write(answer)
        self.transport.close()


def listening_socket(*, fd: int | None, host: str, port: int) -> socket.socket:
    """The socket passed by whoever started us (it outlives a crash), or a new one."""
    if fd is not None:
        return socket.socket(fileno=os.dup(fd))
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    bound.listen(BACKLOG)  # clients may connect from now on; they are answered once the service is up
    return bound


def unix_socket(path: Path) -> socket.socket:
    """A unix socket at `path`, replacing a dead one."""
    with suppress(FileNotFoundError):
        path.unlink()
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    path.chmod(0o600)
    bound.listen(BACKLOG)
    return bound


@asynccontextmanager
async def serving(
    app: Any,  # noqa: ANN401 - any ASGI application
    sockets: list[socket.socket],
    *,
    grace_s: float,
    trusted_proxies: str = "",
    crowd: Crowd | None = None,
    websockets: bool = False,
) -> AsyncGenerator[None]:
    """Serve `app` while open; at the end stop accepting, finish requests within `grace_s` seconds, close.

    `crowd` bounds the connections. A request's client is the peer of its connection; only the addresses of
    `trusted_proxies` may name another. With `websockets`, handshakes reach `app` as the ASGI scope `websocket`;
    a crowd does not see when such a connection ends, so the two exclude each other.
    """
    if websockets and crowd is not None:
        raise ValueError("a crowd cannot bound WebSocket connections: use one of the two")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        interface="asgi3",  # uvicorn would guess
        lifespan="off",
        ws="websockets-sansio" if websockets else "none",
        loop="none",
        http=cast("type[asyncio.Protocol]", functools.partial(Protocol, crowd=crowd)),
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies or None,
        timeout_graceful_shutdown=int(grace_s),
        timeout_keep_alive=75,
        backlog=BACKLOG,
    )
    server = HttpServer(config)
    async with asyncio.TaskGroup() as tasks:
        serve = tasks.create_task(server.serve(sockets=sockets))
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.wait([serve])
