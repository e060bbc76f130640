"""Runs agents in process mode with a manager, a real shim, NATS, PostgreSQL and a test's packages, without a stack."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.database.notices import ChangeNotices
from muster.agent_manager.database.relay import Relay
from muster.agent_manager.fleet import wiring as fleet
from muster.agent_manager.fleet.adapters.agents import AgentClient
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.reconcilers.sandbox_agents import SandboxAgentStates
from muster.agent_manager.fleet.store import agents as registry
from muster.agent_manager.loops import ReconcileLoop
from muster.agent_manager.service import answering
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.streams import STREAMS
from muster.common.agent_credentials.authority import AgentAuthority
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import ensure_stream
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.contracts.agent_lifecycle import RestartAgent, StartAgent, StopAgent
from muster.common.contracts.agent_logs import AgentOutput, GetAgentLogs, LogLine
from muster.common.contracts.agent_registry import GetAgent, RegisterAgent
from muster.common.contracts.agents import AgentChanged, AgentView
from muster.common.faults import TimedOut, Unavailable
from muster.common.ids import new_id
from muster.common.isolation_levels import STRONGEST
from muster.common.supervision import supervise
from muster.shim.client import ShimClient
from tests.support.patience import PATIENCE_S
from tests.support.shim import ShimProcess, running_shim

MANIFEST = """
name = "{name}"
type = "test"
version = "1.0.0"
module = "{name}"
modes = {modes}
graceful_stop_s = {grace_s}
"""


def write_package(
    root: Path, name: str, code: str, *, grace_s: float = 1.0, modes: Sequence[str] = ("process",)
) -> None:
    """Write an agent package with a manifest and one Python file."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "agent.toml").write_text(MANIFEST.format(name=name, grace_s=grace_s, modes=list(modes)))
    (folder / "__main__.py").write_text(code)


@dataclass
class AgentPlace:
    """The servers and packages of a test; `manager` runs a manager with them."""

    bus: Bus
    database: ManagerDatabase
    settings: ManagerSettings
    packages: Path
    shim: ShimClient
    process: ShimProcess
    catalogue: Catalogue = field(default_factory=Catalogue)

    @asynccontextmanager
    async def manager(self, **settings: Any) -> AsyncGenerator[None]:
        """Run a manager; at the end of the block, cancel its loops and release its lease."""
        told = self.settings.model_copy(update=settings)
        async with AsyncExitStack() as opened, asyncio.TaskGroup() as tasks:
            authority = await opened.enter_async_context(AgentAuthority(told))
            shim = await opened.enter_async_context(ShimClient(self.process.socket))
            await fleet.discovery(self.database, told, self.catalogue).look()
            relay = Relay(self.database, MessageStore(self.bus), waker=asyncio.Event(), recheck_s=0.2)
            notices = ChangeNotices(self.database.url)
            kept = fleet.process_loops(self.bus, self.database, told, self.catalogue, notices, shim, authority)
            states = SandboxAgentStates(self.database, AgentClient(self.bus))
            level = ReconcileLoop("states", states, key=lambda due: due[0], waker=asyncio.Event(), recheck_s=0.2)
            others = [("notices", notices.run), ("relay", relay.run), ("sandbox states", level.run)]
            loops = [tasks.create_task(supervise(name, run)) for name, run in [*kept, *others]]
            try:
                async with (
                    answering(self.bus, self.database, told, self.catalogue),
                    fleet.log_answers(self.bus, self.database, told),
                ):
                    yield
            finally:
                for loop in loops:
                    loop.cancel()

    @asynccontextmanager
    async def deaf_manager(self) -> AsyncGenerator[None]:
        """Run a manager that stores commands but runs no loops, as if it crashed before its loops saw the commands."""
        async with answering(self.bus, self.database, self.settings, self.catalogue):
            yield

    async def register(self, package: str, **fields: Any) -> str:
        agent_id = new_id("agt")
        command = RegisterAgent(agent_id=agent_id, name=f"{package}-{agent_id[-6:]}", package=package, **fields)
        await self.bus.request(command, timeout_s=PATIENCE_S)
        return agent_id

    async def start(self, agent_id: str) -> AgentView:
        return await self.bus.request(StartAgent(agent_id=agent_id, command_id=new_id("req")), timeout_s=PATIENCE_S)

    async def stop(self, agent_id: str) -> AgentView:
        return await self.bus.request(StopAgent(agent_id=agent_id, command_id=new_id("req")), timeout_s=PATIENCE_S)

    async def restart(self, agent_id: str) -> AgentView:
        return await self.bus.request(RestartAgent(agent_id=agent_id, command_id=new_id("req")), timeout_s=PATIENCE_S)

    async def started(self, package: str, **fields: Any) -> AgentView:
        """Register an agent, start it, and return it when its process runs."""
        agent_id = await self.register(package, **fields)
        await self.start(agent_id)
        return await self.until(agent_id, lambda view: view.pid is not None)

    async def get(self, agent_id: str) -> AgentView:
        return await self.bus.request(GetAgent(agent_id=agent_id), timeout_s=PATIENCE_S)

    async def database_state(self, agent_id: str) -> str:
        """Return the agent's state from the database, also while the bus is unreachable."""
        async with self.database.reading() as tx:
            agent = await registry.read(tx, agent_id)
        assert agent
        return agent.state

    async def until(
        self, agent_id: str, holds: Callable[[AgentView], object], *, wait_s: float = PATIENCE_S
    ) -> AgentView:
        """Wait until `holds` is true of the agent, and return the agent."""
        view: AgentView | None = None
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    try:
                        view = await self.get(agent_id)
                    except (Unavailable, TimedOut):
                        view = None
                    if view is not None and holds(view):
                        return view
                    await asyncio.sleep(0.05)  # Another process stores the state, so polling is needed.
        except TimeoutError:
            raise AssertionError(f"the agent is still {view}") from None

    async def until_state(self, agent_id: str, *states: str) -> AgentView:
        return await self.until(agent_id, lambda view: view.state in states)

    async def lines(self, agent_id: str, holds: Callable[[list[LogLine]], object]) -> list[LogLine]:
        """Read the lines that the agent's process has printed until `holds` is true of them; return the lines."""
        return await self.records(agent_id, holds, only=("output",))

    async def records(
        self,
        agent_id: str,
        holds: Callable[[list[LogLine]], object],
        *,
        only: Sequence[str] = ("output", "dropped", "ended"),
    ) -> list[LogLine]:
        """Read the agent's log until `holds` is true of its lines and records of these kinds; return them."""
        lines, cursor = list[LogLine](), "MC4w"  # the cursor of the first line
        async with asyncio.timeout(PATIENCE_S):
            while not holds(lines):
                page = GetAgentLogs(agent_id=agent_id, cursor=cursor, wait_s=5, limit=1000)
                answer = await self.bus.request(page, timeout_s=PATIENCE_S)
                lines, cursor = lines + [line for line in answer.lines if line.kind in only], answer.next_cursor
        return lines

    async def frames(self, agent_id: str) -> list[AgentOutput]:
        """Return the stored messages with the agent's output, each of which contains several lines."""
        stored = MessageStore(self.bus).replay("AGENT_LOGS", f"agent.{agent_id}.log")
        return [decode(one.body, AgentOutput) async for one in stored]

    async def told(self, agent_id: str, *, last: str, times: int = 1) -> list[AgentChanged]:
        """Return the agent's published events up to the event number `times` of the kind `last`."""
        told = list[AgentChanged]()
        async with asyncio.timeout(PATIENCE_S):
            async for one in MessageStore(self.bus).follow("AGENTS", f"agent.{agent_id}.event.*"):
                told.append(decode(one.body, AgentChanged))
                if [event.kind for event in told].count(last) == times:
                    break
        return told

    def living(self, *, of: str = "") -> list[psutil.Process]:
        """Return the processes of agents and their children, without the programs of the shim."""
        below = psutil.Process(self.process.process.pid).children(recursive=True)
        return [one for one in below if _names(one, of)]


def _names(process: psutil.Process, word: str) -> bool:
    try:
        command = " ".join(process.cmdline())
        of_the_shim = "keeper." in command or "pid_limiter." in command
        return process.status() != psutil.STATUS_ZOMBIE and not of_the_shim and word in command
    except psutil.Error:
        return False


@asynccontextmanager
async def agent_place(
    nats_url: str, database_url: str, home: Path, *, level: str = "plain", **settings: Any
) -> AsyncGenerator[AgentPlace]:
    """Yield the servers and an empty folder for packages; at the end, stop the shim and all its processes."""
    packages = home / "packages"
    packages.mkdir()
    with running_shim(level) as process:
        told = ManagerSettings(
            nats_url=nats_url,  # type: ignore[arg-type]
            database_url=database_url,  # type: ignore[arg-type]
            shim_socket=process.socket,
            data_dir=process.directory / "home",
            packages_dirs=str(packages),
            recheck_s=1.0,
            isolation_at_least=STRONGEST if level == "auto" else level,  # type: ignore[arg-type]
            **settings,
        )
        async with (
            open_bus(nats_url, "test") as bus,
            open_database(database_url, now=utc_now, new_id=new_id) as database,
            ShimClient(process.socket) as shim,
        ):
            await shim.probe(deadline_s=30)
            for stream in STREAMS:
                await ensure_stream(bus, stream)
            yield AgentPlace(bus, database, told, packages, shim, process)
