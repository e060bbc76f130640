"""Serves ASGI applications with uvicorn and httptools, on inherited sockets or new ones.

Sandboxes connect to their gateway without a proxy, so `Protocol` adds bounds that uvicorn lacks. `docs/operations.md`
lists what a reverse proxy should add. Only packages that depend on uvicorn may import this module.
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

from muster.common.connection_limits import ConnectionLimits

BACKLOG = 2048
MOST_HEAD_BYTES = 65_536
"""The most bytes of an incomplete head and of trailers."""
HEAD_WITHIN_S = 15.0
"""Seconds from a connection's start, or a later request's first byte, until the head must be complete."""
SET_OWNER = "muster.connection_owner"
"""The ASGI extension with which an application names the owner of a connection: `set_owner(name)`."""
_END = b"content-type: text/plain\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_LATE, _LONG = b"HTTP/1.1 408 Request Timeout\r\n" + _END, b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _END


class HttpServer(uvicorn.Server):
    """A uvicorn server without signal handlers, because the service decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Install no signal handlers."""
        yield


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with three additions.

    It closes a connection if the headers of a request arrive too slowly, or if headers or trailers are longer than
    `MOST_HEAD_BYTES`. uvicorn has no such bounds and keeps all trailers in memory. The parser's work grows with the
    square of a header's length.

    It ignores a client's offer to upgrade the connection, except an offer of WebSocket if WebSocket is enabled. For
    example, Java's HTTP client offers `h2c` with its first request. The parser stops at an offer, and uvicorn then
    drops the body. So this class parses the head again without the offer.

    It reports each connection to `limits`, and lets the application name the owner of a connection.
    """

    parser: httptools.HttpRequestParser
    _unbounded_bytes = 0
    _in_head = True
    _late: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, limits: ConnectionLimits | None = None, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **kwargs)
        self._limits = limits

    @property
    def busy(self) -> bool:
        """Return whether a request on this connection waits for its response."""
        return bool(self.cycle) and not self.cycle.response_complete

    def shut(self) -> None:
        """Close the connection at once, because too many connections are open."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline for the headers of the first request. Add the connection to `ConnectionLimits`."""
        super().connection_made(transport)
        self._await_head()
        if self._limits is not None:
            self._limits.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline for headers. Remove the closed connection from `ConnectionLimits`."""
        self._stop_waiting()
        if self._limits is not None:
            self._limits.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, refuse request headers that are too long, and ignore offers to upgrade."""
        self._unset_keepalive_if_required()
        self._unbounded_bytes += len(data)
        try:
            while data:
                data = self._parsed(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._unbounded_bytes > MOST_HEAD_BYTES:
            self._refuse(_LONG)
        elif self._in_head:  # Only request headers that arrive in several pieces need a timer.
            self._await_head()

    def _parsed(self, data: bytes) -> bytes:
        """Parse `data`.

        Return the bytes that must still be parsed. If an offer to upgrade was ignored, these are the request's headers
        without the offer, and all bytes after the headers.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return b""
            lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            # A CONNECT request has no `upgrade` header to remove, so parsing its headers again would never end.
            if len(lines) == len(self.headers):
                raise httptools.HttpParserError from None
            version = self.parser.get_http_version().encode()
            first = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
            # The old parser stopped at the client's offer to upgrade, so a new parser is needed. Like uvicorn's parser,
            # the new parser accepts data after `connection: close`.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            return b"".join([first, *lines, b"\r\n", data[offer.args[0] :]])
        return b""

    def _should_upgrade(self) -> bool:
        """Accept an offer to upgrade only for a `GET` without a body, because nothing would read the body."""
        framed = {name for name, _ in self.headers} & {b"content-length", b"transfer-encoding"}
        return super()._should_upgrade() and self.parser.get_method() == b"GET" and not framed

    @property
    def _offer_ignored(self) -> bool:
        return self.parser.should_upgrade() and not self._should_upgrade()

    def on_message_begin(self) -> None:
        """Begin a request. The application can name the connection's owner by the ASGI extension `SET_OWNER`."""
        super().on_message_begin()
        self._in_head = True
        if self._limits is not None:
            set_owner: Any = functools.partial(self._limits.assign, self)
            self.scope["extensions"] = {SET_OWNER: set_owner}

    def on_headers_complete(self) -> None:
        """Cancel the deadline for headers. Start the request, unless its headers must be parsed again."""
        self._stop_waiting()
        self._in_head, self._unbounded_bytes = False, 0
        if not self._offer_ignored:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body to the application. Body bytes do not count as header bytes."""
        self._unbounded_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless its headers are parsed again without an offer to upgrade."""
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
        if not self.busy:  # A 408 or 431 sent during another response would become a part of that response.
            self.transport.write(answer)
        self.transport.close()


def listening_socket(*, fd: int | None, host: str, port: int) -> socket.socket:
    """Return the inherited socket `fd`, which outlives a crash of the service, or bind a new socket."""
    if fd is not None:
        return socket.socket(fileno=os.dup(fd))
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    bound.listen(BACKLOG)  # Clients can connect before the service has started, and get responses after its start.
    return bound


def unix_socket(path: Path) -> socket.socket:
    """Return a listening unix socket at `path`. An old socket file at this path is deleted first."""
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
    limits: ConnectionLimits | None = None,
    websockets: bool = False,
) -> AsyncGenerator[None]:
    """Serve `app` while the block runs. At the end, stop accepting and finish requests within `grace_s` seconds.

    `limits` bounds the number of open connections. The client address of a request is that of its connection. Only the
    addresses in `trusted_proxies` may name another client. With `websockets`, handshakes reach `app` as the ASGI scope
    `websocket`. `limits` is not informed of the end of a WebSocket connection, so `limits` and `websockets` cannot be
    combined.
    """
    if websockets and limits is not None:
        raise ValueError(
            "connection limits do not count WebSocket connections: pass `limits` or `websockets`, not both"
        )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        interface="asgi3",  # uvicorn would guess
        lifespan="off",
        ws="websockets-sansio" if websockets else "none",
        loop="none",
        http=cast("type[asyncio.Protocol]", functools.partial(Protocol, limits=limits)),
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
