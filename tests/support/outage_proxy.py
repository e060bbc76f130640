"""A proxy before the gateway that plays an outage: refusals, resets, and requests and responses cut in the middle."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec

Fault = Literal["429", "503", "reset", "half_request", "lost_response", "half_response"]
FAULTS: tuple[Fault, ...] = ("429", "503", "reset", "half_request", "lost_response", "half_response")


class HttpMessage(msgspec.Struct):
    """The bytes of one HTTP request or response."""

    head: bytes
    body: bytes


class OutageProxy:
    """Forwards requests from one unix socket to another. `fault` chooses what happens to a request; None: nothing."""

    def __init__(self, upstream: Path, fault: Callable[[], Fault | None]) -> None:
        self._upstream, self._fault = upstream, fault
        self.played: dict[str, int] = dict.fromkeys(FAULTS, 0)
        """How often each fault was played."""
        self._serving = set[asyncio.Task[None]]()

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncGenerator[Path]:
        """Listen on a unix socket while the block runs, and yield its path."""
        server = await asyncio.start_unix_server(self._accept, str(path), limit=16 << 20)
        try:
            yield path
        finally:
            server.close()
            for serving in self._serving:
                serving.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The event loop keeps only a weak reference to a task.
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answered(await _message(reader), writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answered(self, request: HttpMessage, writer: asyncio.StreamWriter) -> bool:
        """Answer one request, or play a fault; return whether the connection goes on."""
        fault = self._fault()
        if fault is not None:
            self.played[fault] += 1
        match fault:
            case "429" | "503":
                line = f"HTTP/1.1 {fault} Refused\r\nretry-after: 2\r\ncontent-length: 2\r\n\r\n{{}}"
                writer.write(line.encode())
            case "reset":
                return False
            case "half_request":
                await self._forward(request.head + request.body[: len(request.body) // 2], respond=False)
                return False
            case _:
                response = await self._forward(request.head + request.body, respond=True)
                cut = {"lost_response": 0, "half_response": len(response) // 2}.get(fault or "", len(response))
                writer.write(response[:cut])
                await writer.drain()
                return fault is None
        return True

    async def _forward(self, request: bytes, *, respond: bool) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self._upstream))
        try:
            writer.write(request)
            await writer.drain()
            if not respond:
                return b""
            response = await _message(reader)
            return response.head + response.body
        finally:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> HttpMessage:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return HttpMessage(head, await reader.readexactly(int(length or b"0")))
