"""Handles the commands start, stop and restart, which store the desired state of an agent."""

from typing import Any

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import SETTLED, AgentRecord
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.handlers.views import agent_view
from muster.agent_manager.fleet.store import agents as registry
from muster.agent_manager.fleet.store import launches, states
from muster.common.contract import token
from muster.common.contracts.agent_lifecycle import RestartAgent, StartAgent, StopAgent
from muster.common.contracts.agents import AgentState, AgentView
from muster.common.faults import Conflict, NotFound, Unavailable


class AgentLifecycle:
    """Handles commands that start, stop or restart agents. A repeated command only returns the agent's view."""

    def __init__(self, database: ManagerDatabase, catalogue: Catalogue, *, processes: bool) -> None:
        self._database, self._catalogue, self._processes = database, catalogue, processes

    async def start(self, command: StartAgent) -> AgentView:
        """Start an agent and keep it running. An agent that is running or starting is not changed."""
        async with self._database.begin() as tx:
            agent = await found(tx, command.agent_id, hold=True)
            if not await states.obeyed(tx, token(command.command_id, "command_id"), agent.agent_id, "start"):
                self._refuse_unstartable(agent)
                running = agent.desired == "running" and agent.state not in SETTLED
                agent = await self._begin(tx, agent, command.command_id) if not running else agent
            return await viewed(tx, agent)

    async def stop(self, command: StopAgent) -> AgentView:
        """Stop an agent and keep it stopped until it is started."""
        async with self._database.begin() as tx:
            agent = await found(tx, command.agent_id, hold=True)
            if not await states.obeyed(tx, token(command.command_id, "command_id"), agent.agent_id, "stop"):
                to: AgentState = "stopping" if await self._busy(tx, agent) else "stopped"
                wished = {"desired": "stopped", "command_id": command.command_id}
                if agent.state not in (to, "quarantined"):
                    agent = await states.go(tx, agent, to, **wished)
                elif agent.desired != "stopped":
                    agent = await registry.change(tx, agent, "wished", **wished)
            return await viewed(tx, agent)

    async def restart(self, command: RestartAgent) -> AgentView:
        """Replace the process of an agent by a new process; start an agent that is stopped."""
        async with self._database.begin() as tx:
            agent = await found(tx, command.agent_id, hold=True)
            if not await states.obeyed(tx, token(command.command_id, "command_id"), agent.agent_id, "restart"):
                self._refuse_unstartable(agent)
                agent = await self._begin(tx, agent, command.command_id)
            return await viewed(tx, agent)

    async def _begin(self, tx: Transaction, agent: AgentRecord, command_id: str) -> AgentRecord:
        wished: dict[str, Any] = {
            "desired": "running",
            "command_id": command_id,
            "restarts": 0,
            "reason": None,
            "exit_code": None,
        }
        if agent.mode == "sandbox":
            to: AgentState = "running" if await self._busy(tx, agent) else "idle"
        else:
            to = "starting"
            wished["min_launch"] = agent.launch + 1
        if agent.state == to and agent.mode == "sandbox":
            return await registry.change(tx, agent, "wished", **wished)
        return await states.go(tx, agent, to, **wished)

    async def _busy(self, tx: Transaction, agent: AgentRecord) -> bool:
        """Return whether the agent has a live task (sandbox mode) or an open launch (process mode)."""
        if agent.mode == "sandbox":
            return (await registry.live_tasks(tx, [agent.agent_id]))[agent.agent_id] > 0
        newest = await launches.of(tx, agent.agent_id, agent.launch)
        return newest is not None and newest.ended_at is None

    def _refuse_unstartable(self, agent: AgentRecord) -> None:
        if agent.state == "quarantined":
            raise Conflict(f"agent {agent.name} is quarantined; release it first")
        if self._catalogue.manifest(agent.package) is None:
            raise Conflict(self._catalogue.why_not(agent.package))
        if agent.mode == "process" and not self._processes:
            raise Unavailable("this manager has no shim, so it cannot start processes; set MUSTER_SHIM_SOCKET")


async def found(tx: Transaction, agent_id: str, *, hold: bool = False) -> AgentRecord:
    """Return the agent with this id; with `hold`, lock its row. Raises `NotFound`; for a bad id, `InvalidMessage`."""
    read = registry.lock if hold else registry.read
    if (agent := await read(tx, token(agent_id, "agent_id"))) is None:
        raise NotFound(f"there is no agent {agent_id}", field="$.agent_id")
    return agent


async def viewed(tx: Transaction, agent: AgentRecord) -> AgentView:
    """Return the view of an agent, with its number of live tasks."""
    live = await registry.live_tasks(tx, [agent.agent_id])
    return agent_view(agent, live_tasks=live[agent.agent_id])
