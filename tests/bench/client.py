"""A very cheap HTTP client with one kept connection per lane, so that a benchmark measures the server."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

IDLE_S = 10.0
"""A lane that was idle for longer connects again. The API closes a connection on which no request begins within 15 s."""


class Lane:
    """One HTTP connection that sends one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._address = parts.netloc, (parts.hostname, parts.port)
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used_s = 0.0

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, bytes]:
        """Send a request; return the status and the body."""
        reader, writer = await self._connected()
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(answer[9:12]), await reader.readexactly(length)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection[1].close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        now_s = asyncio.get_running_loop().time()
        if self._connection is None or now_s - self._used_s > IDLE_S:
            self.close()
            self._connection = await asyncio.open_connection(*self._address)
        self._used_s = now_s
        return self._connection


@asynccontextmanager
async def lanes(url: str, count: int) -> AsyncGenerator[list[Lane]]:
    """Yield `count` connections to a server. A lane connects when it is used."""
    opened = [Lane(url) for _ in range(count)]
    yield opened
    for lane in opened:
        lane.close()
