"""An HTTP server that sends the responses of a script."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager


def answer(status: int = 200, body: bytes = b"{}", **headers: str) -> bytes:
    """Return the bytes of a response; `retry_after="1"` becomes a header."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def stream(body: bytes) -> bytes:
    """Return the bytes of a response of server-sent events that ends with `body`."""
    return answer(body=body, content_type="text/event-stream")


class ScriptedServer:
    """Sends its answers in order, and closes the connection for None. Stores the head and body of each request."""

    def __init__(self, *answers: bytes | None, drip: Callable[[], object] | None = None) -> None:
        self.answers, self.heads, self.bodies = list(answers), list[dict[str, str]](), list[bytes]()
        self._drip, self.url = drip, ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                self.bodies.append(await reader.readexactly(int(fields.get("content-length", 0))))
                self.heads.append(fields | {"method": head[0].split()[0], "path": head[0].split()[1]})
                said = self.answers.pop(0)
                if said is None:
                    return
                await self._say(writer, said)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _say(self, writer: asyncio.StreamWriter, said: bytes) -> None:
        """Send the bytes at once or, with `drip`, one by one; `drip` is called before each."""
        for part in [said[at : at + 1] for at in range(len(said))] if self._drip else [said]:
            if self._drip:
                self._drip()
            writer.write(part)
            await writer.drain()

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[str]:
        """Listen, and yield the URL of the server."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self.url
