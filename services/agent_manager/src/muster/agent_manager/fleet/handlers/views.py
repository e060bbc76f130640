"""Converts stored agents to the views that clients receive."""

from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.common.contract import fields_of
from muster.common.contracts.agent_spec import AgentSpec
from muster.common.contracts.agents import AgentView


def agent_view(agent: AgentRecord, *, live_tasks: int) -> AgentView:
    """Return the view of one agent, as a client receives it."""
    return AgentView(
        **fields_of(AgentSpec, agent.spec, capabilities=agent.capabilities),
        agent_id=agent.agent_id,
        package=agent.package,
        agent_type=agent.agent_type,
        agent_version=agent.agent_version,
        is_default=agent.is_default,
        desired=agent.desired,
        state=agent.state,
        state_since=agent.state_since,
        cites=agent.cites,
        reason=agent.reason,
        exit_code=agent.exit_code,
        launch=agent.launch,
        restarts=agent.restarts,
        pid=agent.pid,
        owner=agent.owner,
        last_seen=agent.last_seen,
        live_tasks=live_tasks,
        version=agent.version,
        created_at=agent.created_at,
        updated_at=agent.updated_at,
    )
