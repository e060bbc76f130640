"""The shim's side of the socket: reads request lines, answers each as it finishes."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress

import msgspec

from muster.common.faults import Fault, TooLarge
from muster.shim import protocol
from muster.shim.protocol import MAX_LINE_BYTES, AnyRequest, Reply, ShimRefusal
from muster.shim.worker_table import WorkerTable

_requests = msgspec.json.Decoder(AnyRequest)


class _Numbered(msgspec.Struct):
    id: int = 0


class ShimServer:
    """Any number of clients at once, each with any number of requests under way."""

    def __init__(self, roster: WorkerTable, isolation: protocol.Isolation, complain: Callable[[str], None]) -> None:
        self._roster, self._isolation, self._complain = roster, isolation, complain
        self._writers = set[asyncio.StreamWriter]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it leaves. What it asked for and did not wait for goes on, unanswered."""
        self._writers.add(writer)
        try:
            async with asyncio.TaskGroup() as answering:
                under_way = set[asyncio.Task[None]]()
                while (line := await _line(reader)) is not None:
                    task = answering.create_task(self._answer(line, writer))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                for task in under_way:
                    task.cancel()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def close(self) -> None:
        """Cut every client off."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        """Never raises, or one client's bug would end its other requests."""
        number = 0
        try:
            _check_size(line)
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                number = msgspec.json.decode(line, type=_Numbered).id
            request = _requests.decode(line)
            if isinstance(request, protocol.Watch):
                async for record in self._roster.exits(request.after):
                    await _write(writer, Reply(id=number, body=_raw(record)))
            elif isinstance(request, protocol.WatchOutput):
                async with aclosing(self._roster.output_changes(request.prefix)) as prints:
                    async for keys in prints:
                        await _write(writer, Reply(id=number, body=_raw(keys)))
            else:
                await _write(writer, Reply(id=number, body=_raw(await self._done(request))))
        except ConnectionError:
            return
        except Exception as error:  # noqa: BLE001 - the seam where any error becomes a refusal
            if type(Fault.of(error)) is Fault:
                self._complain(f"request {line[:200]!r} failed: {error!r}")
            with suppress(ConnectionError):
                await _write(writer, Reply(id=number, refusal=ShimRefusal.of(error)))

    async def _done(self, request: AnyRequest) -> object:
        match request:
            case protocol.LaunchRequest():
                return await self._roster.launch(request)
            case protocol.StopRequest(key=key, grace_s=grace_s):
                return await self._roster.stop(key, grace_s)
            case protocol.Remove(key=key):
                return await self._roster.remove(key)
            case protocol.Renew(keys=keys, prefix=prefix):
                return self._roster.renew(keys, prefix)
            case protocol.WaitRequest(key=key):
                worker = self._roster.worker(key)
                await worker.ended.wait()
                return worker.record
            case _:
                return self._told(request)

    def _told(self, request: AnyRequest) -> object:
        """What changes nothing."""
        match request:
            case protocol.Get(key=key):
                return self._roster.get(key)
            case protocol.List(prefix=prefix):
                return self._roster.starting_with(prefix)
            case protocol.Output(key=key, offset=offset, limit=limit):
                return self._roster.worker(key).output.page(offset, limit)
            case protocol.Probe():
                return self._isolation
            case _:
                raise AssertionError(f"{type(request).__name__} is answered elsewhere")


def _check_size(line: bytes) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise TooLarge(f"a request line is at most {MAX_LINE_BYTES} bytes")


async def _line(reader: asyncio.StreamReader) -> bytes | None:
    """The next line; None at the end. Of a line that is too long only its head, itself too long, is kept."""
    head = b""
    while True:
        try:
            return head or await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as overrun:
            head = (await reader.readexactly(overrun.consumed))[: MAX_LINE_BYTES + 1]
            while await _skipped(reader):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


async def _skipped(reader: asyncio.StreamReader) -> bool:
    """Drop what is buffered of an over-long line; whether there is more of it."""
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
