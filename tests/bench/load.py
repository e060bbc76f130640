"""A load client that costs a few microseconds a request, so that it is not what an ingest benchmark measures.

The requests are encoded before the measurement begins. Each lane is one connection with one open request.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, override

_ACCEPTED = b"HTTP/1.1 202"


class LoadLane(asyncio.Protocol):
    """One connection that sends its requests in order, each after the response to the one before."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests, self._sent, self._got = requests, 0, b""
        self.transport: Any = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def begin(self) -> None:
        """Send the first request, and set `opened` when it is answered."""
        self.transport.write(self._requests[0])

    def go_on(self) -> None:
        """Send the second request, and each later one after the response to the one before."""
        self.transport.write(self._requests[1])

    @override
    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._got.endswith(b"}"):  # Every response ends with its JSON body.
            return
        answer, self._got = self._got, b""
        self._sent += 1
        if not answer.startswith(_ACCEPTED):
            self._fail(AssertionError(answer.decode(errors="replace")))
        elif self._sent == 1:
            self.opened.set_result(None)
        elif self._sent < len(self._requests):
            self.transport.write(self._requests[self._sent])
        elif not self.done.done():
            self.done.set_result(None)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError("the server closed the connection of the benchmark"))

    def _fail(self, error: Exception) -> None:
        for future in (self.opened, self.done):
            if not future.done():
                future.set_exception(error)
                return


async def posted(socket: Path, requests: Sequence[Sequence[bytes]]) -> float:
    """Send the requests of all lanes and return the requests per second. Raises `AssertionError` if one is refused.

    The first request of each lane is not measured: for it a server accepts the connection and reads what it then
    remembers, such as the last frame of a log.
    """
    loop = asyncio.get_running_loop()
    lanes = [(await loop.create_unix_connection(lambda one=one: LoadLane(one), str(socket)))[1] for one in requests]
    for lane in lanes:
        lane.begin()
    try:
        await asyncio.gather(*(lane.opened for lane in lanes))
        began = time.perf_counter()
        for lane in lanes:
            lane.go_on()
        await asyncio.gather(*(lane.done for lane in lanes))
        return (sum(map(len, requests)) - len(lanes)) / (time.perf_counter() - began)
    finally:
        for lane in lanes:
            lane.transport.close()


def post(path: str, token: str, body: bytes) -> bytes:
    """Return the bytes of one POST."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"
    )
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
