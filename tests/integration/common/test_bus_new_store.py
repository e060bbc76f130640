"""NATS restarts with an empty store. Followers start from the beginning, so that they miss nothing in the new streams."""

import asyncio
from contextlib import aclosing, suppress

import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import StreamSpec, ensure_stream
from muster.common.faults import TimedOut, Unavailable
from muster.common.supervision import supervise
from muster.management_api.agents.domain.agent_cursor import AgentCursor
from muster.management_api.agents.store import AgentFeed
from muster.management_api.tasks.domain.feed_end import FeedEnd
from muster.management_api.tasks.domain.task_cursor import TaskCursor
from muster.management_api.tasks.store import TaskFeed
from muster.sandbox_gateway.sandbox_log.store.fences import Fence, FenceStore
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.store import SandboxStore
from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S
from tests.support.sandbox_commands import create_command
from tests.support.servers import Restartable

STREAM = StreamSpec(name="FOLLOWED", subjects=["followed.>"])


async def come_back_empty(server: Restartable, *buses: Bus) -> None:
    await server.kill()
    await server.start_empty()
    async with asyncio.timeout(PATIENCE_S):
        for bus in buses:
            await bus.connected.wait()


async def append(bus: Bus, *bodies: str) -> None:
    message_store, last = MessageStore(bus), 0
    for body in bodies:
        last = await message_store.append("followed.a", body.encode(), last=last)


@pytest.mark.parametrize("stored_anew", [["new 1"], [f"new {number}" for number in range(1, 9)]], ids=["fewer", "more"])
async def test_follower_reads_a_new_stream_from_its_beginning(nats_server: Restartable, stored_anew: list[str]) -> None:
    seen, started_over = list[str](), list[int]()

    async def follow(bus: Bus) -> None:
        async for stored in MessageStore(bus).follow(
            STREAM.name, "followed.a", restarted=lambda: started_over.append(len(seen))
        ):
            seen.append(stored.body.decode())

    async with open_bus(nats_server.url, "follower") as bus, open_bus(nats_server.url, "writer") as writer:
        await ensure_stream(writer, STREAM)
        await append(writer, "old 1", "old 2", "old 3")
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follow(bus))
            await eventually(lambda: len(seen) == 3)
            await come_back_empty(nats_server, writer)
            await ensure_stream(writer, STREAM)
            await append(writer, *stored_anew)
            await eventually(lambda: seen[-1] == stored_anew[-1])
            following.cancel()

    assert started_over
    assert seen[started_over[-1] :] == stored_anew, "all of the new stream, once, after the word to start over"


async def test_follower_continues_when_the_server_kept_its_store(nats_server: Restartable) -> None:
    seen, started_over = list[str](), list[str]()

    async def follow(bus: Bus) -> None:
        async for stored in MessageStore(bus).follow(
            STREAM.name, "followed.a", restarted=lambda: started_over.append("")
        ):
            seen.append(stored.body.decode())

    async with open_bus(nats_server.url, "follower") as bus:
        await ensure_stream(bus, STREAM)
        await append(bus, "1", "2")
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follow(bus))
            await eventually(lambda: len(seen) == 2)
            await nats_server.kill()
            await nats_server.start()
            async with asyncio.timeout(PATIENCE_S):
                await bus.connected.wait()
            await MessageStore(bus).append("followed.a", b"3", last=2, timeout_s=PATIENCE_S)
            await eventually(lambda: seen[-1] == "3")
            following.cancel()

    assert (seen, started_over) == (["1", "2", "3"], [])


class GatewayRecords:
    """The records and fences of one gateway, with a separate connection."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.fences, self.sandboxes = bus, FenceStore(bus), SandboxStore(bus)

    async def ensure(self) -> None:
        """Create the buckets, as the gateway does at start and after each reconnect."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(Unavailable, TimedOut):
                    await self.fences.ensure()
                    await self.sandboxes.ensure()
                    return


def record(sandbox_id: str, bus: Bus) -> SandboxRecord:
    create = create_command(sandbox_id=sandbox_id)
    return SandboxRecord(create=create, host="host", provider="local", created_at=bus.now())


async def test_gateway_knows_fences_and_records_after_nats_lost_its_store(
    nats_server: Restartable,
) -> None:
    async with open_bus(nats_server.url, "one") as bus, open_bus(nats_server.url, "two") as other_bus:
        one, two = GatewayRecords(bus), GatewayRecords(other_bus)
        await one.ensure()
        for number in range(3):
            await two.sandboxes.add(record(f"sbx_old{number}", bus))
            await two.fences.add(f"sbx_old{number}", Fence(epoch=1, reason="old", at=bus.now()))
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(supervise(name, run))
                for name, run in {"fences": one.fences.run, "records": one.sandboxes.run}.items()
            ]
            await eventually(lambda: one.sandboxes.known("sbx_old2") and one.fences.get("sbx_old2"))
            await come_back_empty(nats_server, bus, other_bus)
            await one.ensure()
            await two.sandboxes.add(record("sbx_old1", bus).moved("stopped"))
            await two.sandboxes.add(record("sbx_new", bus))
            await two.fences.add("sbx_new", Fence(epoch=1, reason="silent", at=bus.now()))

            await eventually(lambda: one.fences.get("sbx_new"))
            await eventually(lambda: {known.sandbox_id for known in one.sandboxes.all()} == {"sbx_old1", "sbx_new"})
            await eventually(lambda: (known := one.sandboxes.known("sbx_old1")) and known.state == "stopped")
            assert one.fences.get("sbx_old0"), "a fence is for ever, also when the store has lost it"
            for loop in loops:
                loop.cancel()


@pytest.mark.parametrize("reading", ["task", "agent"])
async def test_open_feed_ends_with_unavailable_when_its_stream_was_recreated(
    nats_server: Restartable, reading: str
) -> None:
    streams = [
        StreamSpec(name="TASKS", subjects=["task.*.event.*"]),
        StreamSpec(name="GUARDIAN", subjects=["guardian.log.*", "guardian.event.>"]),
        StreamSpec(name="AGENTS", subjects=["agent.*.event.*"]),
    ]
    async with open_bus(nats_server.url, "management_api") as bus, open_bus(nats_server.url, "owner") as owner:
        for stream in streams:
            await ensure_stream(owner, stream)
        if reading == "task":
            feed = TaskFeed(bus, TaskCursor(task_id="tsk_1"), FeedEnd()).follow()
        else:
            feed = AgentFeed(bus, AgentCursor("agt_1", 0)).follow()
        assert await anext(feed) is None, "nothing happened yet"
        await come_back_empty(nats_server, owner)
        for stream in streams:
            await ensure_stream(owner, stream)

        async with asyncio.timeout(PATIENCE_S), aclosing(feed):
            with pytest.raises(Unavailable, match="created again"):
                async for event in feed:
                    assert event is None
