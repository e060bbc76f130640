"""A TCP proxy on 127.0.0.1 to a unix socket of the gateway, for programs that can only connect to a TCP address."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from urllib.parse import urlsplit

from muster.common.contracts.worker_api import Handoff

_CHUNK = 64 << 10

FirstBytes = Callable[[asyncio.StreamReader], Awaitable[bytes]]
"""Reads the first bytes of a client, and returns the bytes to send in their place; none ends the connection."""


@asynccontextmanager
async def gateway_tcp_url(handoff: Handoff) -> AsyncGenerator[str]:
    """Yield a base URL of the gateway that works over TCP.

    If the gateway has only a unix socket, a proxy runs while the block runs, and the URL is that of the proxy.
    """
    if handoff.gateway_socket is None:
        yield handoff.gateway_url.rstrip("/")
        return
    async with forwarded_port(handoff.gateway_socket) as port:
        yield f"http://127.0.0.1:{port}{urlsplit(handoff.gateway_url).path.rstrip('/')}"


@asynccontextmanager
async def forwarded_port(socket: str, first_bytes: FirstBytes | None = None) -> AsyncGenerator[int]:
    """Forward connections from a free port of 127.0.0.1 to a unix socket while the block runs; yield the port."""
    open_writers = set[asyncio.StreamWriter]()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        with closing(writer), suppress(OSError):
            first = await first_bytes(reader) if first_bytes else b""
            if first or not first_bytes:
                await _forward(reader, writer, socket, first)
        open_writers.discard(writer)

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in open_writers:  # A client may keep its connection open, so the proxy closes it.
            writer.close()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, socket: str, first: bytes) -> None:
    inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
    with closing(inner_writer):
        inner_writer.write(first)
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(reader, inner_writer))
            both.create_task(_copy(inner_reader, writer))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy bytes from `source` to `sink` until `source` ends. Then send the end of the stream to `sink`."""
    with suppress(OSError):
        while chunk := await source.read(_CHUNK):
            sink.write(chunk)
            await sink.drain()
    if sink.can_write_eof():
        with suppress(OSError):
            sink.write_eof()
