"""Agents in sandbox mode: started is taking tasks, stopped is taking none; running is having a live attempt."""

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.adapters.agents import AgentClient
from muster.agent_manager.fleet.store import agents as registry
from muster.agent_manager.fleet.store import states
from muster.common.contracts.agents import AgentState

Due = tuple[str, AgentState]


class SandboxAgentStates:
    """A `Level` over those whose state is not what their wish and their attempts make of it."""

    def __init__(self, database: ManagerDatabase, agents: AgentClient) -> None:
        self._database, self._agents = database, agents

    async def find(self) -> list[Due]:
        """Who should be in which state."""
        async with self._database.reading() as tx:
            return await states.sandbox_states(tx)

    async def act(self, due: Due) -> None:
        """Store one state, if it is still right."""
        agent_id, _ = due
        async with self._database.begin() as tx:
            agent = await registry.lock(tx, agent_id)
            to = dict(await states.sandbox_states(tx, agent_id)).get(agent_id)
            if agent is None or to is None:
                return
            agent = await states.go(tx, agent, to)
        await self._agents.tell_state(agent)
