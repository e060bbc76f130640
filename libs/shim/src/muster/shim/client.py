"""The client of the shim (the process that starts workers), for the gateway and the agent manager."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from muster.common.faults import TimedOut, Unavailable
from muster.common.isolation_levels import IsolationLevel
from muster.shim.connection import ShimConnection, op_of, replies, result_of
from muster.shim.protocol import (
    LEASE_S,
    MAX_LINE_BYTES,
    MAX_OUTPUT_BYTES,
    Get,
    Isolation,
    LaunchRequest,
    List,
    Output,
    OutputPage,
    Preload,
    Prepare,
    Probe,
    ProcessRecord,
    Remove,
    Renew,
    ShimRequest,
    StopRequest,
    WaitRequest,
    Watch,
    WatchOutput,
    checked_socket_path,
)
from muster.shim.worker_limits import Limits

__all__ = ["Isolation", "Limits", "Preload", "ProcessRecord", "ShimClient"]

DEADLINE_S = 5.0
PREPARE_S = 20.0
"""Seconds in which a fork server usually has imported its modules."""
_BACKOFF_S, _BACKOFF_MOST_S = 0.02, 0.5


class ShimClient:
    """Client of one shim. All requests share one connection, which is opened on demand and reopened after a failure.

    Every request is idempotent, so the client sends it again after a broken connection, until the deadline of the call.
    Then the call raises `Unavailable` if the shim could not be reached, and `TimedOut` if the shim did not answer.
    """

    def __init__(self, path: Path | str, *, deadline_s: float = DEADLINE_S) -> None:
        self._path = checked_socket_path(path)
        self._deadline_s = deadline_s
        self._connecting = asyncio.Lock()
        self._connection: ShimConnection | None = None
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
        preload: Preload | None = None,
        lease_s: float | None = LEASE_S,
        timeout_s: float | None = None,
        at_least: IsolationLevel | None = None,
    ) -> ProcessRecord:
        """Start a worker. If the key is known, return the record of its worker instead, even if it has ended.

        With `preload`, the worker is forked from a fork server that has imported its modules, if this is possible.
        The shim stops the worker after `timeout_s` seconds, or if its lease of `lease_s` seconds is not renewed.
        Raises `InvalidMessage` for a path that does not exist, and `Unavailable` if the shim isolates less than
        `at_least`. The exit code of a missing program is 127.
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
            preload=preload,
            lease_s=lease_s,
            timeout_s=timeout_s,
            at_least=at_least,
        )
        # The first launch waits until the fork server has imported the modules.
        return await self._call(request, ProcessRecord, 2 * PREPARE_S if preload else None)

    async def prepare(self, preload: Preload, *, network: bool = False) -> str | None:
        """Start a fork server unless it runs. Return None when it is ready, or the reason why it cannot be used."""
        return await self._call(Prepare(id=self._next(), preload=preload, network=network), str | None, 4 * PREPARE_S)

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

    async def stop(self, key: str, grace_s: float = 5.0, *, exceeded: str | None = None) -> ProcessRecord:
        """Send TERM to a worker, and KILL after `grace_s` seconds. Return its record after its last process has ended.

        With `exceeded`, the worker is killed at once, and its record contains this reason. Raises `NotFound` for an
        unknown key.
        """
        request = StopRequest(id=self._next(), key=key, grace_s=grace_s, exceeded=exceeded)
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
                yield result_of(replies.decode(await reader.readuntil(b"\n")), type_)
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
                        return result_of(await connection.ask(request), type_)
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(2 * backoff_s, _BACKOFF_MOST_S)
        except TimeoutError:
            if reached:
                raise TimedOut(
                    f"the shim at {self._path} did not answer `{op_of(request)}` within {limit_s:g} s; try again"
                ) from None
            raise Unavailable(
                f"no shim could be reached at {self._path} within {limit_s:g} s; check that it runs"
            ) from None

    async def _connected(self) -> "ShimConnection":
        async with self._connecting:
            if self._connection is None or self._connection.lost:
                loop = asyncio.get_running_loop()
                _, self._connection = await loop.create_unix_connection(ShimConnection, self._path)
            return self._connection

    def _next(self) -> int:
        self._ids += 1
        return self._ids
