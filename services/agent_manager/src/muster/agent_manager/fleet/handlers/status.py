"""Handles queries of an agent's status and metrics, which come from the database and from the running agent."""

from typing import Literal

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.adapters.agents import AgentClient
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.handlers.lifecycle import found
from muster.agent_manager.fleet.store import launches, states
from muster.common.contracts.agent_health import AgentMetricsView, AgentStatusView, GetAgentMetrics, GetAgentStatus


class AgentStatusRequests:
    """Answers queries about the status and metrics of agents; changes nothing."""

    def __init__(self, database: ManagerDatabase, agents: AgentClient) -> None:
        self._database, self._agents = database, agents

    async def status(self, query: GetAgentStatus) -> AgentStatusView:
        """Return the stored status of an agent, and the health that a running process reports within 2 s."""
        async with self._database.reading() as tx:
            agent = await found(tx, query.agent_id)
        asked: Literal["answered", "no_answer", "not_running"] = "not_running"
        health = None
        if _runs(agent):
            health = await self._agents.ask(agent, "health")
            asked = "no_answer" if health is None else "answered"
        return AgentStatusView(
            agent_id=agent.agent_id,
            state=agent.state,
            desired=agent.desired,
            state_since=agent.state_since,
            cites=agent.cites,
            last_seen=agent.last_seen,
            pid=agent.pid,
            exit_code=agent.exit_code,
            reason=agent.reason,
            health=health,
            asked=asked,
        )

    async def metrics(self, query: GetAgentMetrics) -> AgentMetricsView:
        """Return the last metrics that an agent reported, and the numbers that the manager counts for the agent."""
        async with self._database.reading() as tx:
            agent = await found(tx, query.agent_id)
            counted = await states.counted(tx, agent.agent_id)
            newest = await launches.of(tx, agent.agent_id, agent.launch)
            now = tx.now
        uptime_s = 0.0 if newest is None or not _runs(agent) else (now - newest.started_at).total_seconds()
        counted |= {"restarts": float(agent.restarts), "launches": float(agent.launch), "uptime_s": uptime_s}
        return AgentMetricsView(agent_id=agent.agent_id, at=agent.metrics_at, metrics=agent.metrics, counted=counted)


def _runs(agent: AgentRecord) -> bool:
    return agent.mode == "process" and agent.pid is not None
