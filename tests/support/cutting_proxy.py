"""A TCP proxy that cuts connections after a number of bytes of the response."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards bytes. The first connections are cut after as many bytes of the response as `cuts` contains for them.

    With 0 the client gets no byte, although the server has sent its response. Later connections are not cut.
    """

    def __init__(self, url: str, *cuts: int) -> None:
        self._upstream, self._cuts = urlsplit(url), list(cuts)
        self.cut = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self._cuts.pop(0) if self._cuts else None
        there, back = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(_pass_on(reader, back))
                while chunk := await there.read(65_536):
                    part = chunk if left is None else chunk[:left]
                    left = None if left is None else left - len(part)
                    writer.write(part)
                    await writer.drain()
                    if left == 0:
                        self.cut += 1
                        break
                sending.cancel()
        except* ConnectionError:
            pass
        finally:
            writer.close()
            back.close()

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[str]:
        """Listen, and yield the URL of the proxy."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
        await writer.drain()
    writer.close()  # the client has closed its connection, so the response is not needed
