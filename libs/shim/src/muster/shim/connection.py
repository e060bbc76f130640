"""The connection of a client to the shim: sends requests, and matches replies to requests by their ids."""

import asyncio
from typing import Any, cast

import msgspec

from muster.shim.protocol import Reply, ShimRequest

replies = msgspec.json.Decoder(Reply)


class ShimConnection(asyncio.Protocol):
    """One connection to the shim. Matches replies to requests by id. All open requests fail if it breaks."""

    def __init__(self) -> None:
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._open: dict[int, asyncio.Future[Reply]] = {}

    async def ask(self, request: ShimRequest) -> Reply:
        """Send a request and wait for its reply. Raises `ConnectionError` if the connection is lost."""
        if self.lost or self._transport is None:
            raise ConnectionResetError
        answer = self._open[request.id] = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(msgspec.json.encode(request) + b"\n")
            return await answer
        finally:
            self._open.pop(request.id, None)

    def close(self) -> None:
        """Close the connection."""
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport of the new connection."""
        # uvloop's transport is no subclass of `asyncio.Transport`.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Split the received data into lines, and pass each reply to its request."""
        self._buffer += data
        if b"\n" not in data:
            return
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            reply = replies.decode(line)
            if (answer := self._open.get(reply.id)) and not answer.done():
                answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all open requests, so that the client sends them again."""
        self.lost = True
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(exc if isinstance(exc, OSError) else ConnectionResetError())


def result_of(reply: Reply, type_: Any) -> Any:  # noqa: ANN401 - type forms
    """Return the body of a reply as `type_`. Raises the fault that the reply encodes."""
    if reply.refusal:
        raise reply.refusal.fault()
    return msgspec.json.decode(reply.body, type=type_)


def op_of(request: ShimRequest) -> str:
    """Return the name of a request in the protocol."""
    return type(request).__name__.lower()
