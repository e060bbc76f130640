"""Moves the bytes of an admitted connection between a sandbox and a host, with limits of time and rate."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import h11

from muster.sandbox_gateway.egress.adapters.internet import HostFailed
from muster.sandbox_gateway.egress.domain.targets import Target
from muster.sandbox_gateway.egress.routes.client_side import MOST_HEAD_BYTES, ClientSide
from muster.sandbox_gateway.egress.store.open_connections import ConnectionUse, OpenConnection

IDLE_S, LONGEST_S = 300.0, 6 * 3600.0
"""Seconds after which a connection without bytes ends, and after which every connection ends."""
_CHUNK = 64 << 10
_PAUSE_S = 0.05
_CLOSE_S = 5.0
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"upgrade",
    )
)


class Transfer:
    """The bytes of one connection. Each byte moves the idle deadline, and is counted and charged to the sandbox."""

    def __init__(self, use: ConnectionUse, connection: OpenConnection, deadline: asyncio.Timeout) -> None:
        self._use, self._connection, self._deadline = use, connection, deadline
        self._now = asyncio.get_running_loop().time
        self._ends = self._now() + LONGEST_S
        self.complete = False
        """Whether both directions have ended."""

    @property
    def why_ended(self) -> str:
        """The reason why the connection was ended; an empty string if both directions had ended already."""
        if self.complete:
            return ""
        if self._connection.is_cut:
            return "ended with the run of the sandbox"
        if self._now() >= self._ends:
            return f"ended after {LONGEST_S / 3600:g} hours"
        return f"ended after {IDLE_S:g} s without a byte"

    def touch(self) -> None:
        """Move the idle deadline, unless the connection was cut."""
        if not self._connection.is_cut and not self._deadline.expired():
            self._deadline.reschedule(min(self._now() + IDLE_S, self._ends))

    async def sent(self, size: int) -> None:
        """Count bytes from the sandbox to the host, and wait if the sandbox sends too fast."""
        self._connection.sent += size
        await self._charge(size)

    async def received(self, size: int) -> None:
        """Count bytes from the host to the sandbox, and wait if the sandbox receives too fast."""
        self._connection.received += size
        await self._charge(size)

    async def _charge(self, size: int) -> None:
        for bucket in (self._use.bytes, self._use.all_bytes):
            while not bucket.take_on_credit(size, self._now()):  # noqa: ASYNC110 - only time fills the bucket
                await asyncio.sleep(_PAUSE_S)
        self.touch()


async def tunnel(
    client: ClientSide, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transfer: Transfer
) -> None:
    """Answer CONNECT with 200, and copy bytes in both directions until both have ended.

    Raises `HostFailed` if the connection breaks.
    """
    broke = False
    try:
        async with asyncio.TaskGroup() as both:
            await client.send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
            first, _ = client.http.trailing_data
            both.create_task(_copy(client.reader, writer, transfer.sent, first))
            both.create_task(_copy(reader, client.writer, transfer.received))
        transfer.complete = True
    except* (OSError, h11.ProtocolError):
        broke = True
    if broke:
        raise HostFailed("the connection was reset")


async def forward(
    client: ClientSide,
    request: h11.Request,
    target: Target,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    transfer: Transfer,
) -> None:
    """Send a plain HTTP request to its host, written anew from its parsed parts, and send the answer to the client.

    The header `Host` is that of the request's target, whatever the client has sent (RFC 9112, 3.2.2). Raises
    `HostFailed`.
    """
    host = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD_BYTES)
    headers = [(b"host", target.authority.encode()), *_passed_on(request.headers, and_not=b"host")]
    head = h11.Request(method=request.method, target=target.path or "/", headers=[*headers, (b"connection", b"close")])

    async def send(event: h11.Event) -> None:
        if data := host.send(event):
            writer.write(data)
            await writer.drain()
            await transfer.sent(len(data))

    async def body() -> None:
        while isinstance(event := await client.event(), h11.Data):
            with suppress(OSError):  # The host may have answered already.
                await send(h11.Data(data=bytes(event.data)))
        if isinstance(event, h11.EndOfMessage):
            with suppress(OSError):
                await send(h11.EndOfMessage())

    broke = False
    try:
        async with asyncio.TaskGroup() as both:
            await send(head)
            sending = both.create_task(body())
            await _answer(client, host, reader, transfer)
            sending.cancel()  # The host has answered, perhaps without reading the whole request.
    except* (OSError, h11.ProtocolError):
        broke = True
    if broke:
        raise HostFailed(f"{target.host} sent no valid answer, or the request's body was not valid")


async def _answer(client: ClientSide, host: h11.Connection, reader: asyncio.StreamReader, transfer: Transfer) -> None:
    while True:
        event = host.next_event()
        match event:
            case h11.NEED_DATA:
                data = await reader.read(_CHUNK)
                host.receive_data(data)
                await transfer.received(len(data))
            case h11.InformationalResponse():
                await client.send(event)
            case h11.Response():
                headers = [*_passed_on(event.headers), (b"connection", b"close")]
                await client.send(
                    h11.Response(status_code=event.status_code, headers=headers, reason=bytes(event.reason))
                )
            case h11.Data():
                await client.send(h11.Data(data=bytes(event.data)))
            case h11.EndOfMessage():
                await client.send(h11.EndOfMessage())
                return
            case _:
                return


def _passed_on(headers: Iterable[tuple[bytes, bytes]], *, and_not: bytes = b"") -> list[tuple[bytes, bytes]]:
    """Return the headers of a message without those that are about one connection only, or about the proxy."""
    named = {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}
    left_out = (_HOP_BY_HOP | named | {and_not}) - {b"content-length", b"transfer-encoding"}
    if any(name == b"transfer-encoding" for name, _ in headers):
        left_out |= {b"content-length"}  # RFC 9112, 6.1: of the two, only the encoding is passed on
    return [(bytes(name), bytes(value)) for name, value in headers if name not in left_out]


async def _copy(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    count: Callable[[int], Awaitable[None]],
    first: bytes = b"",
) -> None:
    """Copy bytes until `source` ends, and then send the end to `sink`."""
    chunk = first or await source.read(_CHUNK)
    while chunk:
        sink.write(chunk)
        await sink.drain()
        await count(len(chunk))
        chunk = await source.read(_CHUNK)
    if sink.can_write_eof():
        sink.write_eof()


async def close(writer: asyncio.StreamWriter) -> None:
    """Send the rest of the buffered bytes within 5 s, and close the connection."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            writer.close()
            await writer.wait_closed()
    writer.transport.abort()
