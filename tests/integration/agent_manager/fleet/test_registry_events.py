"""Each change of an agent is published once and in order, although relays crash."""

import asyncio
import operator
from collections.abc import AsyncIterator

import msgspec
import pytest

from muster.agent_manager.database import outbox
from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.database.relay import Relay
from muster.agent_manager.fleet.store import agents
from muster.agent_manager.streams import STREAMS
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import ensure_stream
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.contracts.agents import AgentChanged
from muster.common.contracts.packages import Manifest
from muster.common.ids import new_id
from tests.support.eventually import eventually
from tests.support.servers import Restartable

FLEET, CHANGES = 6, 15


@pytest.fixture
async def bus(nats_server: Restartable) -> AsyncIterator[Bus]:
    async with open_bus(nats_server.url, "test") as bus:
        for stream in STREAMS:
            await ensure_stream(bus, stream)
        yield bus


@pytest.fixture
async def database(manager_database_url: str) -> AsyncIterator[ManagerDatabase]:
    async with open_database(manager_database_url, now=utc_now, new_id=new_id) as database:
        yield database


class Crash(BaseException):
    """Raised to end a relay at once, as a kill does."""


class Cut(MessageStore):
    """A journal that stores a message and then raises `Crash`, before the relay knows the result."""

    def __init__(self, bus: Bus, after: int) -> None:
        super().__init__(bus)
        self._left = after

    async def store(self, message: object, message_id: str | None = None, *, timeout_s: float = 30.0) -> int:
        assert isinstance(message, AgentChanged)
        position = await super().store(message, message_id, timeout_s=timeout_s)
        self._left -= 1
        if not self._left:
            raise Crash
        return position


async def changed(database: ManagerDatabase, agent_id: str) -> None:
    for number in range(CHANGES):
        async with database.begin() as tx:
            agent = await agents.lock(tx, agent_id)
            assert agent is not None
            await agents.change(
                tx, agent, "updated", spec=msgspec.structs.replace(agent.spec, labels={"n": str(number)})
            )


async def test_each_agent_change_is_published_once_and_in_order_although_relays_crash(
    bus: Bus, database: ManagerDatabase
) -> None:
    names = [f"fleet{number}" for number in range(FLEET)]
    async with database.begin() as tx:
        for name in names:
            await agents.ensure_default(tx, Manifest(name=name, type="t", version="1", module=name))
    ids = [agents.default_id(name) for name in names]

    async def relayed(message_store: MessageStore) -> None:
        await Relay(database, message_store, waker=asyncio.Event(), recheck_s=0.05).run()

    async with asyncio.TaskGroup() as tasks:
        for agent_id in ids:
            tasks.create_task(changed(database, agent_id))
        for after in (1, 7, 20):
            with pytest.raises(BaseExceptionGroup):
                await relayed(Cut(bus, after))
    async with asyncio.TaskGroup() as tasks:  # Two replicas, of which one holds the relay lock.
        relays = [tasks.create_task(relayed(MessageStore(bus))) for _ in "ab"]
        await eventually(lambda: outbox.oldest(database), operator.not_)
        for relay in relays:
            relay.cancel()

    for agent_id in ids:
        stored = MessageStore(bus).replay("AGENTS", f"agent.{agent_id}.event.>")
        told = [decode(one.body, AgentChanged) async for one in stored]
        assert [event.version for event in told] == list(range(1, CHANGES + 2))
        assert [event.kind for event in told] == ["registered"] + ["updated"] * CHANGES
