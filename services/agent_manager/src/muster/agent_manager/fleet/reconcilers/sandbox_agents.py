"""Sets the states of agents in sandbox mode, which follow from their desired states and their live attempts."""

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.adapters.agents import AgentClient
from muster.agent_manager.fleet.store import agents as registry
from muster.agent_manager.fleet.store import states
from muster.common.contracts.agents import AgentState

Due = tuple[str, AgentState]


class SandboxAgentStates:
    """Corrects agents in sandbox mode whose state does not follow from their desired state and live attempts."""

    def __init__(self, database: ManagerDatabase, agents: AgentClient) -> None:
        self._database, self._agents = database, agents

    async def find(self) -> list[Due]:
        """Return the ids of agents in sandbox mode whose stored state is wrong, each with the right state."""
        async with self._database.reading() as tx:
            return await states.sandbox_states(tx)

    async def act(self, due: Due) -> None:
        """Store the right state of one agent in sandbox mode, if its stored state is still wrong."""
        agent_id, _ = due
        async with self._database.begin() as tx:
            agent = await registry.lock(tx, agent_id)
            to = dict(await states.sandbox_states(tx, agent_id)).get(agent_id)
            if agent is None or to is None:
                return
            agent = await states.go(tx, agent, to)
        await self._agents.tell_state(agent)
