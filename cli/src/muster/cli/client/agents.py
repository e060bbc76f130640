"""Calls the API's routes for agents, agent packages and capabilities."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from muster.cli.client.connection import ApiConnection, Query, part
from muster.cli.client.sse import ServerSentEvent
from muster.common.contracts.agent_health import AgentMetricsView, AgentStatusView
from muster.common.contracts.agent_logs import AgentLogPage
from muster.common.contracts.agent_messages import Handed
from muster.common.contracts.agent_registry import AgentPage, CapabilityList, Choice
from muster.common.contracts.agents import AgentView
from muster.common.contracts.packages import PackageList

AGENTS = "/api/v1/agents"


class AgentRoutes:
    """Methods for the routes of one API that concern agents and packages."""

    def __init__(self, connection: ApiConnection) -> None:
        self._connection, self._call = connection, connection.call

    async def list(
        self,
        *,
        labels: Mapping[str, str] = {},
        limit: int = 50,
        cursor: str | None = None,
        **filters: str | None,
    ) -> AgentPage:
        """Return one page of the matching agents, newest first; `filters` are fields of `ListAgents`."""
        query: Query = [
            *filters.items(),
            *(("label", f"{name}={value}") for name, value in labels.items()),
            ("limit", limit),
            ("cursor", cursor),
        ]
        return await self._call("GET", AGENTS, AgentPage, query=query)

    async def register(self, name: str, package: str, **fields: Any) -> AgentView:  # noqa: ANN401 - RegisterAgent's fields
        """Register an agent under a name; it stays stopped until it is started."""
        return await self._call("POST", AGENTS, AgentView, body={"name": name, "package": package, **fields})

    async def get(self, agent_id: str) -> AgentView:
        """Return an agent."""
        return await self._call("GET", _agent_path(agent_id), AgentView)

    async def update(self, seen: AgentView, **fields: Any) -> AgentView:  # noqa: ANN401 - UpdateAgent's fields
        """Set the given fields of an agent.

        Raises `ApiCallError` with status 412 if the agent's version is no longer the version of `seen`.
        """
        return await self._call("PUT", _agent_path(seen.agent_id), AgentView, body=fields, headers=_if_match(seen))

    async def delete(self, seen: AgentView) -> None:
        """Delete an agent. Raises `ApiCallError` with status 412 if its version is no longer that of `seen`."""
        await self._call("DELETE", _agent_path(seen.agent_id), object, headers=_if_match(seen))

    async def command(self, agent_id: str, verb: str) -> AgentView:
        """Send the command `start`, `stop` or `restart`; return when the new desired state is stored."""
        return await self._call("POST", f"{_agent_path(agent_id)}/{verb}", AgentView)

    async def message(self, agent_id: str, text: str) -> Handed:
        """Send a text to a running agent and return the agent's reply."""
        return await self._call("POST", f"{_agent_path(agent_id)}/messages", Handed, body={"text": text})

    async def status(self, agent_id: str) -> AgentStatusView:
        """Return the agent's state; the API asks the agent's process during this call, if there is one."""
        return await self._call("GET", f"{_agent_path(agent_id)}/status", AgentStatusView)

    async def metrics(self, agent_id: str) -> AgentMetricsView:
        """Return the metrics that the agent reported last, and those that Muster counts."""
        return await self._call("GET", f"{_agent_path(agent_id)}/metrics", AgentMetricsView)

    async def logs(self, agent_id: str, *, cursor: str | None = None, limit: int | None = None) -> AgentLogPage:
        """Return up to `limit` lines that the agent wrote after `cursor`; without a cursor, the last lines."""
        query: Query = [("cursor", cursor), ("limit", limit)]
        return await self._call("GET", f"{_agent_path(agent_id)}/logs", AgentLogPage, query=query)

    def follow_logs(self, agent_id: str, cursor: str) -> AsyncGenerator[ServerSentEvent]:
        """Yield the lines that the agent writes after `cursor`, as `ApiConnection.feed` does."""
        return self._connection.feed(f"{_agent_path(agent_id)}/logs", cursor)

    def events(
        self, agent_id: str, after: str | None = None, *, follow: bool = True, openings: bool = False
    ) -> AsyncGenerator[ServerSentEvent]:
        """Yield the state changes of the agent after the position `after`, as `ApiConnection.feed` does."""
        return self._connection.feed(f"{_agent_path(agent_id)}/events", after, follow=follow, openings=openings)

    async def find(self, *, capabilities: Sequence[str] = (), available: bool = False, **criteria: Any) -> Choice:  # noqa: ANN401 - FindAgent's fields
        """Return the agent that the API chooses for these criteria, and why it rejected each other agent."""
        fields = {"capabilities": list(capabilities), "available": available} | criteria
        return await self._call("POST", f"{AGENTS}/find", Choice, body=fields)

    async def packages(self) -> PackageList:
        """Return all agent packages that were found, each unusable one with the reason."""
        return await self._call("GET", "/api/v1/packages", PackageList)

    async def capabilities(self) -> CapabilityList:
        """Return the capabilities of the registered agents."""
        return await self._call("GET", "/api/v1/capabilities", CapabilityList)


def _agent_path(agent_id: str) -> str:
    return f"{AGENTS}/{part(agent_id)}"


def _if_match(seen: AgentView) -> dict[str, str]:
    return {"If-Match": f'"{seen.version}"'}
