"""Serving HTTP: sockets inherited or bound, stopped together with the service. For members that depend on uvicorn."""

import asyncio
import functools
import os
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from muster.common.crowd import Crowd
from muster.common.upgrades import Upgrades

BACKLOG = 2048
MOST_HEAD_BYTES = 65_536
HEAD_WITHIN_S = 15.0
"""From a connection's first byte, or a request's, until its head is there."""
VOUCH = "muster.vouch"
"""The ASGI extension by which an application says whose connection it is: `vouch(name)`."""
_END = b"content-type: text/plain\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_LATE, _LONG = b"HTTP/1.1 408 Request Timeout\r\n" + _END, b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _END


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: the service decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to the service."""
        yield


class Corked:
    """A transport that sends an answer's head and the beginning of its body in one piece: one system call, one packet.

    The head waits for what is written after it, and never beyond this turn of the loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held = b""

    def write(self, part: bytes) -> None:
        """As the transport's."""
        if self._held:
            part, self._held = self._held + part, b""
            self._send(part)
        else:
            self._held = part
            self._loop.call_soon(self._send_held)

    def close(self) -> None:
        """As the transport's: what was written before is sent first."""
        self._send_held()
        self._transport.close()

    def _send_held(self) -> None:
        if self._held:
            part, self._held = self._held, b""
            self._send(part)

    def _send(self, part: bytes) -> None:
        if not self._transport.is_closing():  # the client may have gone since; uvloop's raises then
            self._transport.write(part)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - all the rest of the transport
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """uvicorn's, with bounds for what comes before a request is known, and answers that leave in one piece.

    The head of a request is as long and takes as long as a client likes, with uvicorn; the parser's work grows with the
    square of its length. An offer to upgrade, which Java's client makes with every first request, is not taken here;
    the parser would stop at it and lose the body.
    """

    _in_head, _in_body = True, False
    _head_bytes = 0
    _late: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, crowd: Crowd | None = None, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **kwargs)
        self._crowd = crowd

    @property
    def busy(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self.cycle) and not self.cycle.response_complete

    def shut(self) -> None:
        """Close it at once: its place is needed."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's."""
        self._upgrades = Upgrades()
        super().connection_made(cast("asyncio.Transport", Corked(transport, self.loop)))
        self._late = self.loop.call_later(HEAD_WITHIN_S, self._refuse, _LATE)
        if self._crowd is not None:
            self._crowd.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        self._in_time()
        if self._crowd is not None:
            self._crowd.gone(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's."""
        super().data_received(data if self._in_body else self._upgrades.without(data))
        if not self._in_head or self.transport.is_closing():
            self._in_time()
            return
        self._head_bytes += len(data)
        if self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(_LONG)
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_WITHIN_S, self._refuse, _LATE)

    def on_message_begin(self) -> None:
        """As uvicorn's."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()
        if self._crowd is not None:
            vouch: Any = functools.partial(self._crowd.vouched, self)
            self.scope["extensions"] = {VOUCH: vouch}

    def on_headers_complete(self) -> None:
        """As uvicorn's."""
        self._in_head, self._in_body = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """As uvicorn's."""
        self._in_body = False
        super().on_message_complete()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, answer: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self.cycle or self.cycle.response_complete:  # else it would stand in the middle of an answer
            self.transport.write(answer)
        self.transport.close()


def listening_socket(*, fd: int | None, host: str, port: int) -> socket.socket:
    """The socket passed by whoever started us (it outlives a crash), or a new one."""
    if fd is not None:
        return socket.socket(fileno=os.dup(fd))
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    bound.listen(BACKLOG)  # who knows the address may connect: he is answered as soon as there is someone to
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
) -> AsyncGenerator[None]:
    """Serve `app` while open; at the end stop accepting, finish requests within `grace_s` seconds, close.

    `crowd` bounds the connections. Who a request comes from is who connected; only the addresses of `trusted_proxies`
    may say otherwise.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        interface="asgi3",  # uvicorn would guess
        lifespan="off",
        ws="none",
        loop="none",
        http=cast("type[asyncio.Protocol]", functools.partial(Protocol, crowd=crowd)),
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies or None,
        timeout_graceful_shutdown=int(grace_s),
        timeout_keep_alive=75,
        backlog=BACKLOG,
    )
    server = Server(config)
    async with asyncio.TaskGroup() as tasks:
        serve = tasks.create_task(server.serve(sockets=sockets))
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.wait([serve])
