"""The routes below `/api/v1/agents`, which register, read, change, start, stop and delete agents."""

from typing import Annotated

from fastapi import Body, Query, Response
from msgspec.structs import asdict

from muster.common.contracts.agent_bodies import AgentChange, AgentSearch, AgentText, NewAgent
from muster.common.contracts.agent_lifecycle import RestartAgent, StartAgent, StopAgent
from muster.common.contracts.agent_messages import Handed, MessageAgent
from muster.common.contracts.agent_registry import (
    AgentPage,
    Choice,
    DeleteAgent,
    Deleted,
    FindAgent,
    ListAgents,
    RegisterAgent,
    UpdateAgent,
)
from muster.common.contracts.agents import AgentView
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.agents.domain.queries import AgentQuery
from muster.management_api.http.application_parts import Services
from muster.management_api.http.idempotency.requests import Idempotent
from muster.management_api.http.ids import AgentId
from muster.management_api.http.openapi import BODY, ETAG, LOCATION, refuses
from muster.management_api.http.preconditions import Version, versioned
from muster.management_api.http.route import routes_of

AGENTS = "/api/v1/agents"

Viewer = Annotated[Principal, requires("viewer", "agents:read")]
Operator = Annotated[Principal, requires("operator", "agents:write")]
Admin = Annotated[Principal, requires("admin", "agents:write")]

router = routes_of(AGENTS, "agents")
CHANGES = BODY | refuses(404)
CONDITIONAL = refuses(404, 409, 412, 422, 428)


@router.get("", responses=refuses(422))
async def list_agents(query: Annotated[AgentQuery, Query()], _: Viewer, services: Services) -> AgentPage:
    """List the agents that match all filters, newest first. `next_cursor` is the cursor of the next page."""
    return await services.ask(ListAgents(**query.filters))


@router.post("", status_code=201, responses=BODY | {201: {"headers": LOCATION["headers"] | ETAG["headers"]}})
async def register_agent(
    new: Annotated[NewAgent, Body(examples=[{"name": "echo-1", "package": "echo", "labels": {"team": "core"}}])],
    _: Operator,
    new_id: Idempotent,
    services: Services,
    response: Response,
) -> AgentView:
    """Register an agent. The new agent is stopped. The status is 409 if another agent has the same name."""
    view = await services.ask(RegisterAgent(agent_id=new_id("agt"), **asdict(new)))
    response.headers["Location"] = f"{AGENTS}/{view.agent_id}"
    return versioned(view, response)


@router.post("/find", responses=BODY)
async def find_agent(
    wanted: Annotated[AgentSearch, Body(examples=[{"capabilities": ["echo"], "available": True}])],
    _: Viewer,
    __: Idempotent,
    services: Services,
) -> Choice:
    """Choose an agent with the given properties. The reply contains the reason for each other agent's rejection.

    This request changes nothing.
    """
    return await services.ask(FindAgent(**asdict(wanted)))


@router.get("/{agent_id}", responses=refuses(404, 422) | {200: ETAG})
async def get_agent(agent_id: AgentId, _: Viewer, services: Services, response: Response) -> AgentView:
    """Return one agent. A request that changes or deletes the agent must send its `ETag` as `If-Match`."""
    return versioned(await services.agent(agent_id), response)


@router.put("/{agent_id}", responses=BODY | CONDITIONAL | {200: ETAG})
async def update_agent(
    agent_id: AgentId,
    change: Annotated[AgentChange, Body(examples=[{"labels": {"team": "platform"}}])],
    version: Version,
    _: Operator,
    services: Services,
    response: Response,
) -> AgentView:
    """Change the given fields of an agent. The agent uses a new `config` after the next start of its process."""
    command = UpdateAgent(agent_id=agent_id, version=version, **asdict(change))
    return versioned(await services.ask(command), response)


@router.delete("/{agent_id}", responses=CONDITIONAL)
async def delete_agent(agent_id: AgentId, version: Version, _: Admin, services: Services) -> Deleted:
    """Delete an agent. Answers 409 while the agent runs, has a live task, or is the default agent of its package."""
    return await services.ask(DeleteAgent(agent_id=agent_id, version=version))


@router.post("/{agent_id}/start", status_code=202, responses=CHANGES | {202: ETAG})
async def start_agent(
    agent_id: AgentId, _: Operator, new_id: Idempotent, services: Services, response: Response
) -> AgentView:
    """Start the agent and keep it running. Replies as soon as the command is stored.

    The agent's status and events show the progress.
    """
    return versioned(await services.ask(StartAgent(agent_id=agent_id, command_id=new_id("req"))), response)


@router.post("/{agent_id}/stop", status_code=202, responses=CHANGES | {202: ETAG})
async def stop_agent(
    agent_id: AgentId, _: Operator, new_id: Idempotent, services: Services, response: Response
) -> AgentView:
    """Stop the agent and keep it stopped.

    The agent's process gets the signal TERM. After a grace time, the process and all its children get KILL.
    """
    return versioned(await services.ask(StopAgent(agent_id=agent_id, command_id=new_id("req"))), response)


@router.post("/{agent_id}/restart", status_code=202, responses=CHANGES | {202: ETAG})
async def restart_agent(
    agent_id: AgentId, _: Operator, new_id: Idempotent, services: Services, response: Response
) -> AgentView:
    """Restart the agent: end its process and start a new process."""
    return versioned(await services.ask(RestartAgent(agent_id=agent_id, command_id=new_id("req"))), response)


@router.post("/{agent_id}/messages", responses=CHANGES)
async def message_agent(
    agent_id: AgentId,
    new: Annotated[AgentText, Body(examples=[{"text": "Are you there?"}])],
    caller: Operator,
    new_id: Idempotent,
    services: Services,
) -> Handed:
    """Send a text to a running agent of the mode `process`, and return the agent's answer or error.

    The state is `accepted` if the agent needs more than 1.5 s. The outcome is then a later event of the agent, of the
    kind `message-answered`, `message-failed` or `message-lost`. The status is 409 if the agent does not run or refuses.
    """
    command = MessageAgent(agent_id=agent_id, message_id=new_id("msg"), text=new.text, sender=caller.name)
    return await services.ask(command)
