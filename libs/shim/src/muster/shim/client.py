"""The one thing gateway and manager import: a client that survives its connection."""

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
    """Speaks to one shim. Requests share a connection, which is opened when needed and again when it breaks.

    Every request may be sent twice without harm, so a broken connection is retried until the call's deadline. Then it
    is `Unavailable` where the shim could not be reached, `TimedOut` where it was and did not answer.
    """

    def __init__(self, path: Path | str, *, deadline_s: float = DEADLINE_S) -> None:
        self._path = checked_socket_path(path)
        self._deadline_s = deadline_s
        self._connecting = asyncio.Lock()
        self._line: _Line | None = None
        self._ids = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._line:
            self._line.close()

    async def probe(self, *, deadline_s: float | None = None) -> Isolation:
        """The isolation level workers get, and why. Its answer means that the shim is ready."""
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
        again: bool = False,
    ) -> ProcessRecord:
        """Start a worker, or find the one of this key, even if it has ended. Over `timeout_s` the shim stops it.

        `again`: should it crash, another one with the same paths is likely to be launched at once.
        Raises `InvalidMessage` for a path that does not exist; a program that does not is an exit with 127.
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
            again=again,
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
        """Launch, and wait for the end. After `timeout_s` the shim stops it and says so in `stopped_by`."""
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
        """The record once the worker has ended. Raises `NotFound`, and `TimedOut` while it has not."""
        return await self._call(WaitRequest(id=self._next(), key=key), ProcessRecord, deadline_s)

    async def get(self, key: str) -> ProcessRecord | None:
        """The record of a worker, running or ended; None for one that is unknown or was removed."""
        return await self._call(Get(id=self._next(), key=key), ProcessRecord | None)

    async def list(self, prefix: str = "") -> list[ProcessRecord]:
        """The records of all whose key starts so."""
        return await self._call(List(id=self._next(), prefix=prefix), list[ProcessRecord])

    async def output(self, key: str, offset: int = 0, limit: int = MAX_OUTPUT_BYTES) -> tuple[bytes, int]:
        """Output from `offset` (negative: from the end) or from the oldest kept, and the next offset."""
        page = await self._call(Output(id=self._next(), key=key, offset=offset, limit=limit), OutputPage)
        return page.body, page.next_offset

    async def stop(self, key: str, grace_s: float = 5.0) -> ProcessRecord:
        """TERM, `grace_s`, KILL of everything below; the record once all is gone. Raises `NotFound`."""
        request = StopRequest(id=self._next(), key=key, grace_s=grace_s)
        return await self._call(request, ProcessRecord, grace_s + 2 * self._deadline_s)

    async def remove(self, key: str) -> None:
        """Kill what runs; forget record and output. Unknown is fine."""
        await self._call(Remove(id=self._next(), key=key), type(None), 2 * self._deadline_s)

    async def renew(self, *keys: str, prefix: str | None = None) -> Sequence[str]:
        """Start the leases of these keys, and of all with this prefix, again; the keys that are running."""
        return await self._call(Renew(id=self._next(), keys=[*keys], prefix=prefix), list[str])

    async def exits(self, after: int = 0) -> AsyncGenerator[ProcessRecord]:
        """Every exit with `exit_no > after`, past ones first, then as they happen; survives lost connections."""
        backoff_s = _BACKOFF_S
        while True:
            with suppress(OSError, EOFError):
                async with aclosing(self._told(Watch(id=self._next(), after=after), ProcessRecord)) as exits:
                    async for record in exits:
                        after, backoff_s = record.exit_no or after, _BACKOFF_S
                        yield record
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _BACKOFF_MOST_S)

    async def output_changes(self, prefix: str = "") -> AsyncGenerator[Sequence[str]]:
        """The keys that printed or ended since they were last told; after each lost connection all of this prefix."""
        backoff_s = _BACKOFF_S
        while True:
            with suppress(OSError, EOFError):
                request = WatchOutput(id=self._next(), prefix=prefix)
                async with aclosing(self._told(request, list[str])) as told:
                    async for keys in told:
                        backoff_s = _BACKOFF_S
                        yield keys
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _BACKOFF_MOST_S)

    async def _told(self, request: ShimRequest, type_: Any) -> AsyncGenerator[Any]:  # noqa: ANN401 - type forms
        """What is answered without end, over a connection of its own, until that breaks."""
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
                        line = await self._connected()
                        reached = True
                        return _result(await line.ask(request), type_)
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(2 * backoff_s, _BACKOFF_MOST_S)
        except TimeoutError:
            if reached:
                raise TimedOut(f"the shim did not answer `{_op(request)}` within {limit_s:g} s") from None
            raise Unavailable(f"no shim could be reached at {self._path} within {limit_s:g} s") from None

    async def _connected(self) -> "_Line":
        async with self._connecting:
            if self._line is None or self._line.lost:
                _, self._line = await asyncio.get_running_loop().create_unix_connection(_Line, self._path)
            return self._line

    def _next(self) -> int:
        self._ids += 1
        return self._ids


class _Line(asyncio.Protocol):
    """One connection: matches replies with requests, and fails what is open when it breaks."""

    def __init__(self) -> None:
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._open: dict[int, asyncio.Future[Reply]] = {}

    async def ask(self, request: ShimRequest) -> Reply:
        """Send, and wait for the reply. Raises `ConnectionError` when the connection is, or gets, lost."""
        if self.lost or self._transport is None:
            raise ConnectionResetError
        answer = self._open[request.id] = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(msgspec.json.encode(request) + b"\n")
            return await answer
        finally:
            self._open.pop(request.id, None)

    def close(self) -> None:
        """Leave."""
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Hand each whole line to whoever waits for it."""
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
        """Let everyone try again."""
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
