"""A network backend for httpcore that ends each socket operation at the deadline of the call."""

import ssl
from collections.abc import Iterable
from typing import Any, cast

import httpcore

from muster.client.operation_deadline import operation_s

_WRITE_BYTES = 65_536
"""Bytes of one write. A longer text is written in parts, so that the deadline is checked between them."""


class AsyncLimitedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections on which each socket operation ends at the call's deadline (`OperationDeadline`)."""

    def __init__(self) -> None:
        # httpcore defines an empty substitute for this class if anyio is missing, so a type checker needs the cast.
        self._backend = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host. Raises `httpcore.ConnectTimeout` if the time limit is exceeded."""
        limit_s = operation_s(timeout, httpcore.ConnectTimeout)
        return AsyncLimitedStream(await self._backend.connect_tcp(host, port, limit_s, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`; httpcore calls this method before it tries again to connect."""
        await self._backend.sleep(seconds)


class AsyncLimitedStream(httpcore.AsyncNetworkStream):
    """A connection on which each socket operation ends at the call's deadline (`OperationDeadline`)."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        """Read up to `max_bytes` bytes from the server. Raises `httpcore.ReadTimeout` if the time limit is exceeded."""
        return await self._stream.read(max_bytes, operation_s(timeout, httpcore.ReadTimeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's signature
        """Send all bytes of `buffer` to the server. Raises `httpcore.WriteTimeout` if the time limit is exceeded."""
        for start in range(0, len(buffer), _WRITE_BYTES):
            limit_s = operation_s(timeout, httpcore.WriteTimeout)
            await self._stream.write(buffer[start : start + _WRITE_BYTES], limit_s)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        """Start TLS on this connection. Raises `httpcore.ConnectTimeout` if the time limit is exceeded."""
        limit_s = operation_s(timeout, httpcore.ConnectTimeout)
        return AsyncLimitedStream(await self._stream.start_tls(ssl_context, server_hostname, limit_s))

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's signature
        """Return the property `info` of the connection's socket, as httpcore names it."""
        return self._stream.get_extra_info(info)
