"""`verify` reports a missing log of a known sandbox as a fault, in the gateway and in the API."""

from collections.abc import AsyncIterator

import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.service import Service
from muster.common.bus.streams import ensure_stream, jetstream
from muster.common.contracts.gateway import LOG_GONE, Verdict, VerifySandbox
from muster.common.contracts.sandbox_log import Fenced, FrameKind, Opened, log_stream, partition
from muster.common.faults import NotFound
from muster.common.ids import new_id
from muster.management_api.service_client import ServiceClient
from muster.sandbox_gateway.models.store import ModelCallStore
from muster.sandbox_gateway.sandbox_log.domain.frames import control
from muster.sandbox_gateway.sandbox_log.store.fences import Fence, FenceStore
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandbox_log.store.payloads import PayloadStore
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.handlers.queries import SandboxQueries
from muster.sandbox_gateway.sandboxes.store import SandboxStore
from muster.sandbox_gateway.streams import specs
from tests.support.managed import open_place
from tests.support.sandbox_commands import create_command
from tests.support.servers import Restartable


class GatewayStores:
    """The stores that answer a gateway's queries, on a real server."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.fences, self.sandboxes = bus, FenceStore(bus), SandboxStore(bus)
        self.log = SandboxLog(bus, Headroom(bus, max_bytes=-1))
        self.payloads = PayloadStore(bus, max_bytes=1 << 20, sandbox_max_bytes=1 << 20)
        cost_of = ModelCallStore(bus, bus.now).cost_of
        self.queries = SandboxQueries(self.sandboxes, self.log, self.fences, self.payloads, cost_of, bus.now)

    async def ensure(self) -> None:
        for spec in specs(-1):
            await ensure_stream(self.bus, spec)
        await self.fences.ensure()
        await self.sandboxes.ensure()
        await self.payloads.ensure()

    async def verify(self, sandbox_id: str) -> Verdict:
        return await self.queries.verify(VerifySandbox(sandbox_id=sandbox_id))


def created(bus: Bus) -> SandboxRecord:
    create = create_command()
    return SandboxRecord(create=create, host="host", provider="local", created_at=bus.now())


async def lose(bus: Bus, sandbox_id: str) -> None:
    """Delete the stream of a sandbox's log as an administrator may, and create it again as the gateway does."""
    stream = log_stream(partition(sandbox_id))
    await jetstream(bus, f"STREAM.DELETE.{stream}")
    await ensure_stream(bus, next(spec for spec in specs(-1) if spec.name == stream))


@pytest.fixture
async def gateway(nats_url: str) -> AsyncIterator[GatewayStores]:
    async with open_bus(nats_url, "sandbox_gateway") as bus:
        stores = GatewayStores(bus)
        await stores.ensure()
        yield stores


async def test_lost_log_of_a_sandbox_that_was_started_is_a_fault(gateway: GatewayStores) -> None:
    record = created(gateway.bus)
    await gateway.sandboxes.add(record)
    opened = Opened(package="echo", model="scripted/hello", conversation_id="cnv_1")
    await gateway.log.append([control(record.owner, FrameKind.OPENED, opened)])
    await gateway.sandboxes.change(record.sandbox_id, lambda now: now.moved("running", pid=1))
    assert (await gateway.verify(record.sandbox_id)).ok

    await lose(gateway.bus, record.sandbox_id)
    verdict = await gateway.verify(record.sandbox_id)

    assert (verdict.ok, verdict.frames, verdict.faults) == (False, 0, [LOG_GONE])


async def test_sandbox_without_an_opened_log_has_no_verdict(gateway: GatewayStores) -> None:
    record = await gateway.sandboxes.add(created(gateway.bus))
    for sandbox_id in (record.sandbox_id, new_id("sbx")):
        with pytest.raises(NotFound):
            await gateway.verify(sandbox_id)


async def test_fence_without_any_frame_in_the_log_is_a_fault(gateway: GatewayStores) -> None:
    sandbox_id = new_id("sbx")
    await gateway.fences.add(sandbox_id, Fence(epoch=1, reason="silent", at=gateway.bus.now()))

    assert (await gateway.verify(sandbox_id)).faults == [LOG_GONE]


async def test_log_with_only_a_fence_is_a_fault_unless_it_was_fenced_before_it_opened(
    gateway: GatewayStores,
) -> None:
    unborn, born = [await gateway.sandboxes.add(created(gateway.bus)) for _ in range(2)]
    for record, pid in ((unborn, None), (born, 1)):
        await gateway.log.append([control(record.owner, FrameKind.FENCED, Fenced(reason="silent"))])
        await gateway.sandboxes.change(record.sandbox_id, lambda now, pid=pid: now.moved("fenced", pid=pid))

    verdict = await gateway.verify(born.sandbox_id)

    assert (await gateway.verify(unborn.sandbox_id)).ok
    assert not verdict.ok
    assert "earlier frames are missing" in verdict.faults[0]


async def test_missing_log_of_a_sandbox_that_only_the_manager_knows_is_a_fault(
    nats_server: Restartable, manager_database_url: str
) -> None:
    async with open_place(nats_server.url, manager_database_url) as place, open_bus(nats_server.url, "api") as api_bus:
        stores, api = GatewayStores(place.bus), ServiceClient(api_bus)
        await stores.ensure()
        keeper = Service("sandbox_gateway", place.bus)
        keeper.handles(VerifySandbox, stores.queries.verify)
        place.gateway.on_create = place.gateway.emits
        async with keeper, place.manager():
            task = await place.submit()
            sandbox_id = (await place.until_state(task.task_id, "running")).attempts[0].sandbox_id
            assert await stores.sandboxes.get(sandbox_id) is None, "the gateway has forgotten it"
            assert (await api.verdict(sandbox_id)).ok

            await lose(place.bus, sandbox_id)
            verdict = await api.verdict(sandbox_id)
            with pytest.raises(NotFound):
                await api.verdict(new_id("sbx"))

    assert (verdict.ok, verdict.epoch, verdict.faults) == (False, 1, [LOG_GONE])
