"""A worker keeps every event through an outage of its gateway: stored once, in order, and counted the same everywhere.

The worker's waits between two tries are virtual: they advance a clock, and the outage ends when this clock says so.
Everything else is real: the journal and the outbox of a worker, the proxy's broken connections, the gateway, NATS and
the management API.
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.event_builder import EventBuilder
from muster.agent.gateway_client import GatewayClient
from muster.agent.journal import EventJournal
from muster.agent.outbox import Outbox
from muster.common.clock import utc_now
from muster.common.contracts.gateway import Verdict
from muster.common.contracts.worker_api import Handoff
from muster.common.ids import new_id
from tests.support.api import ApiProcess
from tests.support.caller import Caller
from tests.support.doors_double import Doors, handoff_for
from tests.support.eventually import eventually
from tests.support.gateway import Stack, without_shim
from tests.support.outage_proxy import FAULTS, Fault, OutageProxy


class OutageClock:
    """The worker's clock: its waits take no real time. While the outage lasts, each request meets a fault."""

    def __init__(self, seed: int) -> None:
        self.now_s, self.ends_s = 0.0, 0.0
        self._random = random.Random(seed)

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)

    def fault(self) -> Fault | None:
        return self._random.choice(FAULTS) if self.now_s < self.ends_s else None


class OutageWorker:
    """The journal and outbox of a worker. A killed worker starts again from its disk."""

    def __init__(self, handoff: Handoff, clock: OutageClock) -> None:
        self._handoff, self._clock = handoff, clock
        self._folder = Path(handoff.state_dir)
        self._folder.mkdir(parents=True)
        self.cursor = self._folder / "outbox.cursor"
        self.build = EventBuilder(utc_now, new_id)
        self._read_disk()

    def _read_disk(self) -> None:
        self.journal, self.wake = EventJournal(self._folder / "events.jsonl"), AutoResetEvent()

    @asynccontextmanager
    async def sending(self) -> AsyncGenerator[Outbox]:
        """Send events while the block runs; its end is as the end of a killed worker."""
        async with GatewayClient(self._handoff, sleep=self._clock.sleep) as gateway:
            outbox = Outbox(self.journal, gateway, self.wake, epoch=1, cursor=self.cursor)
            running = asyncio.create_task(outbox.run())
            try:
                yield outbox
            finally:
                running.cancel()
                await asyncio.wait([running])
                self.journal.close()
                self._read_disk()

    def write(self, count: int) -> None:
        """Write events of the agent to disk, as an agent does that works on during the outage."""
        first = self.journal.count()
        texts = [f"step {first + number}" for number in range(count)]
        self.journal.append([self.build.message("agent", "assistant", text) for text in texts], None)
        self.wake()


async def through_an_outage(worker: OutageWorker, clock: OutageClock, events: int, outage_s: float, lives: int) -> None:
    """Write a fifth of the events before the outage, three fifths during it and a fifth after it.

    The worker is killed in each of its `lives` but the last, all during the outage. Every second life has lost the
    outbox's cursor.
    """
    worker.write(events // 5)
    async with worker.sending() as outbox:
        await eventually(lambda: outbox.acked == events // 5)
    clock.ends_s = clock.now_s + outage_s
    began_s = clock.now_s
    worker.write(1)  # The clock advances only while the worker has something to send.
    for life in range(1, lives + 1):
        async with worker.sending():
            while clock.now_s < min(began_s + outage_s * life / lives, clock.ends_s):
                due = events // 5 + int(events * 3 // 5 * min((clock.now_s - began_s) / outage_s, 1))
                if due > worker.journal.count():
                    worker.write(due - worker.journal.count())
                worker.wake()
                await asyncio.sleep(0.001)
        if life % 2:
            worker.cursor.unlink(missing_ok=True)
    worker.write(events - worker.journal.count())
    async with worker.sending() as outbox:
        await eventually(lambda: outbox.acked == events, within_s=60)
        assert (outbox.written, outbox.acked) == (events, events)


@pytest.mark.parametrize(
    ("events", "outage_s", "lives"),
    [
        pytest.param(500, 240.0, 2, id="500"),
        pytest.param(8_622, 5_400.0, 6, id="8622-in-90-minutes", marks=[pytest.mark.stress, pytest.mark.timeout(300)]),
    ],
)
async def test_every_event_of_an_outage_is_stored_once_and_in_order(
    events: int, outage_s: float, lives: int, tmp_path: Path, nats_url: str, api: ApiProcess
) -> None:
    clock = OutageClock(seed=events)
    async with without_shim(tmp_path, nats_url) as stack:
        proxy = OutageProxy(stack.socket, clock.fault)
        owner, token = await stack.born()
        async with proxy.listening(tmp_path / "proxy.sock") as socket:
            told = handoff_for(Doors(owner.sandbox_id), "http://gateway", tmp_path, token=token)
            worker = OutageWorker(msgspec.structs.replace(told, gateway_socket=str(socket)), clock)
            await through_an_outage(worker, clock, events, outage_s, lives)
        assert min(proxy.played.values()) > 0, proxy.played
        worker.journal.close()
        await check_counters(stack, api, owner.sandbox_id, worker.journal)


async def check_counters(stack: Stack, api: ApiProcess, sandbox_id: str, journal: EventJournal) -> None:
    """Assert that the log has exactly the events on the worker's disk, and that the API counts as many."""
    stored = [event for frame in await stack.frames(sandbox_id) for event in frame.events]
    assert [event.seq for event in stored] == list(range(1, journal.count() + 1))
    assert [bytes(event.body) for event in stored] == [bytes(event.body) for event in journal.read(0, len(stored))]
    verdict = msgspec.convert(await Caller(api).done("GET", f"/api/v1/sandboxes/{sandbox_id}/verify"), Verdict)
    assert (verdict.ok, verdict.events, verdict.gaps) == (True, journal.count(), [])
