"""Preparations of sandboxes that wait for a slot, or run, end when their sandbox is no longer wanted."""

import asyncio

import pytest

from muster.common.bus.connection import open_bus
from muster.common.clock import utc_now
from muster.common.faults import Unavailable
from muster.common.ids import new_id
from muster.sandbox_gateway.sandbox_log.store.fences import Fence, FenceStore
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.reconcilers.preparations import SandboxPreparations
from muster.sandbox_gateway.sandboxes.store import SandboxStore
from tests.support.patience import PATIENCE_S
from tests.support.sandbox_commands import create_command


def record() -> SandboxRecord:
    create = create_command()
    return SandboxRecord(create=create, host="h", provider="local", created_at=utc_now())


async def test_a_start_that_waits_for_its_turn_can_be_ended_and_takes_no_slot(nats_url: str) -> None:
    async with open_bus(nats_url, "sandbox_gateway") as bus:
        sandboxes, fences = SandboxStore(bus), FenceStore(bus)
        await sandboxes.ensure()
        await fences.ensure()
        preparations, slots = SandboxPreparations(sandboxes, fences), asyncio.Semaphore(1)
        stopped, fenced, kept = [await sandboxes.add(record()) for _ in range(3)]
        await slots.acquire()
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            waiting = [
                tasks.create_task(preparations.run(one.sandbox_id, slots.acquire)) for one in (stopped, fenced, kept)
            ]
            await asyncio.sleep(0)
            await sandboxes.change(stopped.sandbox_id, lambda now: now.moved("stopping", wanted="stopped"))
            await fences.add(fenced.sandbox_id, Fence(epoch=1, reason="test", at=utc_now()))
            assert await waiting[0] is None
            assert await waiting[1] is None
            slots.release()
            assert await waiting[2] is True
        assert slots.locked()
        slots.release()
        assert not slots.locked()
        assert await preparations.run(stopped.sandbox_id, slots.acquire) is None
        assert not slots.locked()


async def test_the_error_of_a_preparation_is_raised_as_it_is(nats_url: str) -> None:
    async def fails() -> None:
        raise Unavailable("no answer")

    async with open_bus(nats_url, "sandbox_gateway") as bus:
        preparations = SandboxPreparations(SandboxStore(bus), FenceStore(bus))
        with pytest.raises(Unavailable, match="no answer"):
            await preparations.run(new_id("sbx"), fails)
