"""The client of the shim (the process that starts workers), for the gateway and the agent manager."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import msgspec

from muster.common.faults import TimedOut, Unavailable
from muster.shim.protocol import (
    LEASE_S,
    MAX_LINE_BYTES,
    MAX_OUTPUT_BYTES,
    Get,
    Isolation,
    LaunchRequest,
    Limits,
    List,
    Output,
    OutputPage,
    Probe,
    ProcessRecord,
    Remove,
    Renew,
    Reply,
    ShimRequest,
    StopRequest,
    WaitRequest,
    Watch,
    WatchOutput,
    checked_socket_path,
)

__all__ = ["Isolation", "Limits", "ProcessRecord", "ShimClient"]

DEADLINE_S = 5.0
_BACKOFF_S, _BACKOFF_MOST_S = 0.02, 0.5

_replies = msgspec.json.Decoder(Reply)


class ShimClient:
    """Client of one shim. All requests share one connection, which is opened on demand and reopened after a failure.

    Every request is idempotent, so the client sends it again after a broken connection, until the deadline of the call.
    Then the call raises `Unavailable` if the shim could not be reached, and `TimedOut` if the shim did not answer.
    """

    def __init__(self, path: Path | str, *, deadline_s: float = DEADLINE_S) -> None:
        self._path = checked_socket_path(path)
        self._deadline_s = deadline_s
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None
        self._ids = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._connection:
            self._connection.close()

    async def probe(self, *, deadline_s: float | None = None) -> Isolation:
        """Return the isolation level of the shim's workers. Waits until the shim is ready."""
        return await self._call(Probe(id=self._next()), Isolation, deadline_s)

    async def launch(
        self,
        key: str,
        argv: Sequence[str],
        *,
        cwd: Path | str,
        env: Mapping[str, str] | None = None,
        writable: Sequence[Path | str] = (),
        readable: Sequence[Path | str] = (),
        network: bool = False,
        limits: Limits | None = None,
        lease_s: float | None = LEASE_S,
        timeout_s: float | None = None,
    ) -> ProcessRecord:
        """Start a worker. If the key is known, return the record of its worker instead, even if it has ended.

        The shim stops the worker after `timeout_s` seconds, or if its lease of `lease_s` seconds is not renewed.
        Raises `InvalidMessage` for a path that does not exist. The exit code of a missing program is 127.
        """
        request = LaunchRequest(
            id=self._next(),
            key=key,
            argv=list(argv),
            cwd=str(cwd),
            env=dict(env or {}),
            writable=[str(path) for path in writable],
            readable=[str(path) for path in readable],
            network=network,
            limits=limits or Limits(),
            lease_s=lease_s,
            timeout_s=timeout_s,
        )
        return await self._call(request, ProcessRecord)

    async def run(
        self,
        key: str,
        argv: Sequence[str],
        *,
        cwd: Path | str,
        env: Mapping[str, str] | None = None,
        writable: Sequence[Path | str] = (),
        readable: Sequence[Path | str] = (),
        network: bool = False,
        limits: Limits | None = None,
        timeout_s: float,
    ) -> ProcessRecord:
        """Launch a worker and wait for its end. The shim stops the worker after `timeout_s` seconds."""
        record = await self.launch(
            key,
            argv,
            cwd=cwd,
            env=env,
            writable=writable,
            readable=readable,
            network=network,
            limits=limits,
            lease_s=None,
            timeout_s=timeout_s,
        )
        return record if record.state == "exited" else await self.wait(key, deadline_s=timeout_s + 3 * self._deadline_s)

    async def wait(self, key: str, *, deadline_s: float) -> ProcessRecord:
        """Wait for the end of a worker and return its record. Raises `TimedOut`, or `NotFound` for an unknown key."""
        return await self._call(WaitRequest(id=self._next(), key=key), ProcessRecord, deadline_s)

    async def get(self, key: str) -> ProcessRecord | None:
        """Return the record of a running or ended worker, or None if the key is unknown or was removed."""
        return await self._call(Get(id=self._next(), key=key), ProcessRecord | None)

    async def list(self, prefix: str = "") -> list[ProcessRecord]:
        """Return the records of all workers whose key starts with `prefix`."""
        return await self._call(List(id=self._next(), prefix=prefix), list[ProcessRecord])

    async def output(self, key: str, offset: int = 0, limit: int = MAX_OUTPUT_BYTES) -> tuple[bytes, int]:
        """Return the piece of a worker's output that `output_page` returns, and the offset after this piece."""
        return (page := await self.output_page(key, offset, limit)).body, page.next_offset

    async def output_page(self, key: str, offset: int = 0, limit: int = MAX_OUTPUT_BYTES) -> OutputPage:
        """Return output from `offset`, or the oldest stored byte, on. A negative `offset` counts from the end."""
        return await self._call(Output(id=self._next(), key=key, offset=offset, limit=limit), OutputPage)

    async def stop(self, key: str, grace_s: float = 5.0) -> ProcessRecord:
        """Send TERM to a worker, and KILL after `grace_s` seconds. Return its record after its last process has ended.

        Raises `NotFound` for an unknown key.
        """
        request = StopRequest(id=self._next(), key=key, grace_s=grace_s)
        return await self._call(request, ProcessRecord, grace_s + 2 * self._deadline_s)

    async def remove(self, key: str) -> None:
        """Kill a worker, and delete its record and output. An unknown key is ignored."""
        await self._call(Remove(id=self._next(), key=key), type(None), 2 * self._deadline_s)

    async def renew(self, *keys: str, prefix: str | None = None) -> Sequence[str]:
        """Renew the leases of the running workers with these keys or with this key prefix. Return their keys."""
        return await self._call(Renew(id=self._next(), keys=[*keys], prefix=prefix), list[str])

    async def exits(self, after: int = 0) -> AsyncGenerator[ProcessRecord]:
        """Yield the record of each exit numbered above `after`, in order, without end. A reconnect skips no exit."""
        backoff_s = _BACKOFF_S
        while True:
            with suppress(OSError, EOFError):
                async with aclosing(self._stream(Watch(id=self._next(), after=after), ProcessRecord)) as exits:
                    async for record in exits:
                        after, backoff_s = record.exit_no or after, _BACKOFF_S
                        yield record
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _BACKOFF_MOST_S)

    async def output_changes(self, prefix: str = "") -> AsyncGenerator[Sequence[str]]:
        """Yield without end the keys of workers that have new output or have ended.

        After each connect, all keys with `prefix` are yielded first.
        """
        backoff_s = _BACKOFF_S
        while True:
            with suppress(OSError, EOFError):
                request = WatchOutput(id=self._next(), prefix=prefix)
                async with aclosing(self._stream(request, list[str])) as changes:
                    async for keys in changes:
                        backoff_s = _BACKOFF_S
                        yield keys
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _BACKOFF_MOST_S)

    async def _stream(self, request: ShimRequest, type_: Any) -> AsyncGenerator[Any]:  # noqa: ANN401 - type forms
        """Yield the many replies to one request, over a separate connection, until the connection breaks."""
        reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_LINE_BYTES)
        try:
            writer.write(msgspec.json.encode(request) + b"\n")
            await writer.drain()
            while True:
                yield _result(_replies.decode(await reader.readuntil(b"\n")), type_)
        finally:
            writer.transport.abort()

    async def _call(self, request: ShimRequest, type_: Any, deadline_s: float | None = None) -> Any:  # noqa: ANN401 - type forms
        limit_s = self._deadline_s if deadline_s is None else deadline_s
        reached, backoff_s = False, _BACKOFF_S
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    reached = False
                    with suppress(OSError):
                        connection = await self._connected()
                        reached = True
                        return _result(await connection.ask(request), type_)
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(2 * backoff_s, _BACKOFF_MOST_S)
        except TimeoutError:
            if reached:
                raise TimedOut(
                    f"the shim at {self._path} did not answer `{_op(request)}` within {limit_s:g} s; try again"
                ) from None
            raise Unavailable(
                f"no shim could be reached at {self._path} within {limit_s:g} s; check that it runs"
            ) from None

    async def _connected(self) -> "_Connection":
        async with self._connecting:
            if self._connection is None or self._connection.lost:
                loop = asyncio.get_running_loop()
                _, self._connection = await loop.create_unix_connection(_Connection, self._path)
            return self._connection

    def _next(self) -> int:
        self._ids += 1
        return self._ids


class _Connection(asyncio.Protocol):
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
            reply = _replies.decode(line)
            if (answer := self._open.get(reply.id)) and not answer.done():
                answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all open requests, so that the client sends them again."""
        self.lost = True
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(exc if isinstance(exc, OSError) else ConnectionResetError())


def _result(reply: Reply, type_: Any) -> Any:  # noqa: ANN401 - type forms
    if reply.refusal:
        raise reply.refusal.fault()
    return msgspec.json.decode(reply.body, type=type_)


def _op(request: ShimRequest) -> str:
    return type(request).__name__.lower()
