"""The shim's socket server: reads one request per line, and replies to each request as soon as it is done.

An error in one request becomes an error reply. The other requests of the connection continue.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing, suppress

import msgspec

from muster.common.faults import Fault, TooLarge
from muster.common.isolation_levels import refuse_weaker
from muster.shim import protocol
from muster.shim.peers import is_descendant
from muster.shim.protocol import MAX_LINE_BYTES, AnyRequest, Reply, ShimRefusal
from muster.shim.worker_table import WorkerTable

_requests = msgspec.json.Decoder(AnyRequest)


class _RequestId(msgspec.Struct):
    """Only the id of a request, which an error reply needs even if the rest of the request is invalid."""

    id: int = 0


class ShimServer:
    """Serves any number of clients, each with any number of concurrent requests."""

    def __init__(self, table: WorkerTable, isolation: protocol.Isolation, on_error: Callable[[str], None]) -> None:
        self._table, self._isolation, self._on_error = table, isolation, on_error
        self._writers = set[asyncio.StreamWriter]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until it disconnects. A worker is no client: its connection is closed at once.

        A disconnection does not affect workers that the client's open requests started or stopped.
        """
        if is_descendant(writer.get_extra_info("socket"), os.getpid()):
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            async with asyncio.TaskGroup() as tasks:
                answering = set[asyncio.Task[None]]()
                while (line := await _read_line(reader)) is not None:
                    task = tasks.create_task(self._answer(line, writer))
                    answering.add(task)
                    task.add_done_callback(answering.discard)
                for task in answering:
                    task.cancel()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def close(self) -> None:
        """Close the connections of all clients."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        """Reply to one request. Must not raise, because an exception would cancel the client's other requests."""
        number = 0
        try:
            _check_size(line)
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                number = msgspec.json.decode(line, type=_RequestId).id
            request = _requests.decode(line)
            if isinstance(request, protocol.Watch):
                async for record in self._table.exits(request.after):
                    await _write(writer, Reply(id=number, body=_raw(record)))
            elif isinstance(request, protocol.WatchOutput):
                async with aclosing(self._table.output_changes(request.prefix)) as changes:
                    async for keys in changes:
                        await _write(writer, Reply(id=number, body=_raw(keys)))
            else:
                await _write(writer, Reply(id=number, body=_raw(await self._result(request))))
        except ConnectionError:
            return
        except Exception as error:  # noqa: BLE001 - every error becomes a refusal here
            if type(Fault.of(error)) is Fault:
                self._on_error(f"request {line[:200]!r} failed: {error!r}")
            with suppress(ConnectionError):
                await _write(writer, Reply(id=number, refusal=ShimRefusal.of(error)))

    async def _result(self, request: AnyRequest) -> object:
        match request:
            case protocol.LaunchRequest(at_least=least):
                refuse_weaker(self._isolation.level, least)
                return await self._table.launch(request)
            case protocol.Prepare(preload=preload, network=network):
                return await self._table.prepare(preload, network=network)
            case protocol.StopRequest() | protocol.Remove():
                return await self._end(request)
            case protocol.Renew(keys=keys, prefix=prefix):
                return self._table.renew(keys, prefix)
            case protocol.WaitRequest(key=key):
                worker = self._table.worker(key)
                await worker.ended.wait()
                return worker.record
            case _:
                return self._read_only_result(request)

    async def _end(self, request: protocol.StopRequest | protocol.Remove) -> object:
        if isinstance(request, protocol.Remove):
            return await self._table.remove(request.key)
        return await self._table.stop(request.key, request.grace_s, request.exceeded)

    def _read_only_result(self, request: AnyRequest) -> object:
        """Return the result of a client's request that only reads the table of workers or the isolation level."""
        match request:
            case protocol.Get(key=key):
                return self._table.get(key)
            case protocol.List(prefix=prefix):
                return self._table.starting_with(prefix)
            case protocol.Output(key=key, offset=offset, limit=limit):
                return self._table.worker(key).output.page(offset, limit)
            case protocol.Probe():
                return self._isolation
            case _:
                raise AssertionError(f"{type(request).__name__} is a request that the shim's server does not handle")


def _check_size(line: bytes) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise TooLarge(f"the request line is longer than {MAX_LINE_BYTES} bytes; send a shorter request")


async def _read_line(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next line, or None at the end of the connection.

    Only a part of a line that is too long is returned. This part is still over the limit, so the request is refused.
    """
    head = b""
    while True:
        try:
            return head or await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as overrun:
            head = (await reader.readexactly(overrun.consumed))[: MAX_LINE_BYTES + 1]
            while await _skip(reader):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


async def _skip(reader: asyncio.StreamReader) -> bool:
    """Drop the buffered part of a line that is too long. Return True if more of the line follows."""
    try:
        await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError as overrun:
        await reader.readexactly(overrun.consumed)
        return True
    return False


async def _write(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(msgspec.json.encode(reply) + b"\n")
    await writer.drain()


def _raw(body: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(body))
