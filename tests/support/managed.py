"""The surroundings of a manager: real servers and a double of the gateway. A test starts managers in them."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.database.notices import ChangeNotices
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.wiring import discovery
from muster.agent_manager.service import answering, loops
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.streams import STREAMS
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import ensure_stream
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.tasks import (
    GetTask,
    SubmitTask,
    TaskChanged,
    TaskView,
)
from muster.common.ids import new_id
from muster.common.supervision import supervise
from tests.support.gateway_double import GatewayDouble
from tests.support.patience import PATIENCE_S


@dataclass
class Place:
    """The servers and the gateway's double; `manager` runs a manager."""

    bus: Bus
    database: ManagerDatabase
    gateway: GatewayDouble
    settings: ManagerSettings
    catalogue: Catalogue

    @asynccontextmanager
    async def manager(self) -> AsyncGenerator[None]:
        """Run a manager; at the end of the block, cancel all of its loops at once, as in a crash."""
        async with asyncio.TaskGroup() as tasks:
            parts = (self.bus, self.database, self.settings, self.catalogue)
            notices = ChangeNotices(self.database.url)
            running = [tasks.create_task(supervise(name, run)) for name, run in loops(*parts, notices)]
            try:
                async with answering(*parts):
                    yield
            finally:
                for loop in running:
                    loop.cancel()

    async def submit(self, **fields: object) -> TaskView:
        told = {"task_id": new_id("tsk"), "objective": "make it work", "package": "echo", **fields}
        return await self.bus.request(SubmitTask(**told))  # type: ignore[arg-type]

    async def get(self, task_id: str) -> TaskView:
        return await self.bus.request(GetTask(task_id=task_id))

    async def until(self, task_id: str, true: Callable[[TaskView], object]) -> TaskView:
        """Wait until `true` holds for the task, and return the task. Each event of the task causes a new read."""
        async with asyncio.timeout(PATIENCE_S), self.bus.woken_by(f"task.{task_id}.event.*") as woken:
            while not true(view := await self.get(task_id)):
                woken.clear()
                try:
                    async with asyncio.timeout(0.25):
                        await woken.wait()
                except TimeoutError:
                    continue
            return view

    async def until_state(self, task_id: str, state: str) -> TaskView:
        return await self.until(task_id, lambda view: view.state == state)

    async def told(self, task_id: str) -> list[TaskChanged]:
        stored = MessageStore(self.bus).replay("TASKS", f"task.{task_id}.event.*")
        return [decode(one.body, TaskChanged) async for one in stored]


@asynccontextmanager
async def open_place(nats_url: str, database_url: str) -> AsyncGenerator[Place]:
    """Yield the surroundings of a manager, with streams and a database of the newest schema, but without a manager."""
    settings = ManagerSettings(nats_url=nats_url, database_url=database_url, recheck_s=0.5)  # type: ignore[arg-type]
    async with (
        open_bus(nats_url, "test") as bus,
        open_database(database_url, now=utc_now, new_id=new_id) as database,
    ):
        catalogue = Catalogue()
        await discovery(database, settings, catalogue).look()
        for stream in STREAMS:
            await ensure_stream(bus, stream)
        gateway = GatewayDouble(bus)
        await gateway.prepare()
        async with gateway.service():
            yield Place(bus, database, gateway, settings, catalogue)


async def works(_: CreateSandbox) -> None:
    """Do nothing: the double's worker runs and sends no result."""
    await asyncio.sleep(0)
