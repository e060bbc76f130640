"""An HTTP forward proxy that shows to which hosts a client wants to connect."""

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class ConnectProxy:
    """Forwards `CONNECT host:port` and requests with a whole URL, and notes every `host:port` in `asked`.

    `names` maps the names of invented hosts to ports of this machine. The proxy connects only to addresses of this
    machine and answers 502 for all others, so that a test never calls a real provider.
    """

    def __init__(self, names: Mapping[str, int] | None = None) -> None:
        self._names = names or {}
        self.asked = list[str]()

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[str]:
        """Listen, and yield the URL of the proxy, for HTTP_PROXY and HTTPS_PROXY."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            url = urlsplit(f"//{target}" if method == "CONNECT" else target)
            host, port = url.hostname or "", url.port or (443 if method == "CONNECT" else 80)
            self.asked.append(f"{host}:{port}")
            if host in self._names:
                host, port = "127.0.0.1", self._names[host]
            if not _is_local(host):
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            there, back = await asyncio.open_connection(host, port)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                back.write(_in_origin_form(head, method, url.path or "/", url.query))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pass_on(reader, back))
                tasks.create_task(_pass_on(there, writer))
        except* (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_origin_form(head: bytes, method: str, path: str, query: str) -> bytes:
    """Return the head of a request for the server itself. The connection serves this one request only."""
    lines = head.decode().split("\r\n")[1:-2]
    kept = [line for line in lines if not line.lower().startswith(("connection:", "proxy-"))]
    first = f"{method} {path}{'?' if query else ''}{query} HTTP/1.1"
    return "\r\n".join([first, *kept, "Connection: close", "", ""]).encode()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()
