"""Measures 10,000 workers that wait for a message at one gateway: its memory, its idle work, and the wake-up of one.

Each worker has an open request to its inbox. Fewer are opened if the machine allows fewer open files.
"""

import asyncio
import functools
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil

from muster.common.clock import utc_now
from muster.common.contracts.gateway import SendMessage
from muster.common.ids import new_id
from tests.bench.ingest_servers import gateway_alone
from tests.bench.ratios import say
from tests.support.gateway import Stack

POLLS, AT_ONCE, WOKEN = 10_000, 64, 50
SPARE_FILES = 500
WAIT_S, IDLE_S = 30, 12.0


class WaitingWorker:
    """A worker that asks for messages again and again, each time until one arrives or the gateway answers none."""

    def __init__(self, stack: Stack, sandbox_id: str, token: str) -> None:
        self.sandbox_id = sandbox_id
        path = f"/v1/sandboxes/{sandbox_id}/inbox?wait_s={WAIT_S}"
        self._socket = stack.socket
        self._request = f"GET {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {token}\r\n\r\n".encode()
        self.got, self.refused = asyncio.Event(), 0
        self.polling: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Open the connection and send the first request."""
        reader, writer = await self._connected()
        self.polling = asyncio.create_task(self._poll(reader, writer))

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
            except BlockingIOError:  # The socket's backlog is full.
                await asyncio.sleep(0.01)
            else:
                writer.write(self._request)
                return reader, writer

    async def _poll(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                if b"message_id" in body:
                    self.got.set()
                    return
                if not head.startswith(b"http/1.1 200"):
                    self.refused += 1
                    await asyncio.sleep(random.uniform(1, 2))  # The gateway asks for at least a second.
                if b"connection: close" in head:
                    writer.close()
                    reader, writer = await self._connected()
                else:
                    writer.write(self._request)
        finally:
            writer.close()


async def report() -> None:
    """Open the requests and print the memory for each, the CPU while all of them wait, and the time of a wake-up."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    count = min(POLLS, allowed - SPARE_FILES)
    say(f"open inbox polls: {count:,} workers wait at one gateway")
    with tempfile.TemporaryDirectory(prefix="muster-polls-") as place:
        async with gateway_alone(Path(place)) as stack:
            assert stack.gateway is not None
            gateway = psutil.Process(stack.gateway.pid)
            workers = [WaitingWorker(stack, *one) for one in await made(stack, count)]
            before, began = gateway.memory_info().rss, time.perf_counter()
            await at_once([worker.begin for worker in workers])
            opened_s = time.perf_counter() - began
            await asyncio.sleep(IDLE_S)
            used, began = sum(gateway.cpu_times()[:2]), time.perf_counter()
            await asyncio.sleep(IDLE_S)
            share = (sum(gateway.cpu_times()[:2]) - used) / (time.perf_counter() - began)
            memory = gateway.memory_info().rss - before
            took = [await woken(stack, worker) * 1000 for worker in workers[:: max(1, count // WOKEN)]]
            for worker in workers:
                if worker.polling is not None:
                    worker.polling.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*(one.polling for one in workers if one.polling), return_exceptions=True)
    say(f"  refused with Retry-After, and repeated: {sum(worker.refused for worker in workers):,}")
    say(f"  memory: {memory / 2**20:,.0f} MiB, {memory / count / 1024:.1f} KiB a poll; opened in {opened_s:.0f} s")
    say(f"  gateway's CPU while all wait: {share:.0%} of one core")
    slowest = statistics.quantiles(took, n=100)[98]
    say(f"  from the command to the worker's response: {statistics.median(took):.1f} / {slowest:.1f} ms (p50 / p99)")


async def made(stack: Stack, count: int) -> list[tuple[str, str]]:
    """Open the logs of `count` sandboxes; return their ids and tokens."""
    sandboxes = list[tuple[str, str]]()

    async def one() -> None:
        owner, token = await stack.born(expires_s=3600)
        sandboxes.append((owner.sandbox_id, token))

    await at_once([one] * count)
    return sandboxes


async def at_once(steps: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run all steps, `AT_ONCE` of them side by side."""
    left = iter(steps)

    async def lane() -> None:
        for step in left:
            await step()

    await asyncio.gather(*(lane() for _ in range(AT_ONCE)))


async def woken(stack: Stack, worker: WaitingWorker) -> float:
    """Send a message to one worker; return the seconds until the worker has it."""
    expires_at, began = utc_now() + timedelta(hours=1), time.perf_counter()
    message = functools.partial(SendMessage, sandbox_id=worker.sandbox_id, message_id=new_id("msg"), epoch=1)
    await stack.bus.request(message(text="go on", sender="bench", expires_at=expires_at))
    async with asyncio.timeout(WAIT_S):
        await worker.got.wait()
    return time.perf_counter() - began
