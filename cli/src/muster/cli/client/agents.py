"""The API's routes about agents and packages, as Python calls."""

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
    """Agents of one API."""

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
        """Agents that match, newest first; `filters` are those of `ListAgents`."""
        query: Query = [
            *filters.items(),
            *(("label", f"{name}={value}") for name, value in labels.items()),
            ("limit", limit),
            ("cursor", cursor),
        ]
        return await self._call("GET", AGENTS, AgentPage, query=query)

    async def register(self, name: str, package: str, **fields: Any) -> AgentView:  # noqa: ANN401 - RegisterAgent's fields
        """Make an agent known."""
        return await self._call("POST", AGENTS, AgentView, body={"name": name, "package": package, **fields})

    async def get(self, agent_id: str) -> AgentView:
        """One agent."""
        return await self._call("GET", _one(agent_id), AgentView)

    async def update(self, seen: AgentView, **fields: Any) -> AgentView:  # noqa: ANN401 - UpdateAgent's fields
        """Change what is given, unless somebody has changed it since it was `seen`."""
        return await self._call("PUT", _one(seen.agent_id), AgentView, body=fields, headers=_if_match(seen))

    async def delete(self, seen: AgentView) -> None:
        """Forget an agent that is as it was `seen`."""
        await self._call("DELETE", _one(seen.agent_id), object, headers=_if_match(seen))

    async def command(self, agent_id: str, verb: str) -> AgentView:
        """Wish it to `start`, `stop` or `restart`; answered once the wish is stored."""
        return await self._call("POST", f"{_one(agent_id)}/{verb}", AgentView)

    async def message(self, agent_id: str, text: str) -> Handed:
        """Hand a text to a running agent."""
        return await self._call("POST", f"{_one(agent_id)}/messages", Handed, body={"text": text})

    async def status(self, agent_id: str) -> AgentStatusView:
        """How it is, asked just now."""
        return await self._call("GET", f"{_one(agent_id)}/status", AgentStatusView)

    async def metrics(self, agent_id: str) -> AgentMetricsView:
        """Its numbers."""
        return await self._call("GET", f"{_one(agent_id)}/metrics", AgentMetricsView)

    async def logs(self, agent_id: str, *, cursor: str | None = None, limit: int | None = None) -> AgentLogPage:
        """Its output after `cursor`; without one the last `limit` lines."""
        query: Query = [("cursor", cursor), ("limit", limit)]
        return await self._call("GET", f"{_one(agent_id)}/logs", AgentLogPage, query=query)

    def follow_logs(self, agent_id: str, cursor: str) -> AsyncGenerator[ServerSentEvent]:
        """Its output after `cursor`, as it comes; goes on when the API was away."""
        return self._connection.feed(f"{_one(agent_id)}/logs", cursor)

    def events(
        self, agent_id: str, after: str | None = None, *, follow: bool = True, openings: bool = False
    ) -> AsyncGenerator[ServerSentEvent]:
        """What happens to it, as `ApiConnection.feed` gives it."""
        return self._connection.feed(f"{_one(agent_id)}/events", after, follow=follow, openings=openings)

    async def find(self, *, capabilities: Sequence[str] = (), available: bool = False, **wanted: Any) -> Choice:  # noqa: ANN401 - FindAgent's fields
        """Which agent can do this, and why no other."""
        fields = {"capabilities": list(capabilities), "available": available} | wanted
        return await self._call("POST", f"{AGENTS}/find", Choice, body=fields)

    async def packages(self) -> PackageList:
        """What agents can be made of; broken ones with their reason."""
        return await self._call("GET", "/api/v1/packages", PackageList)

    async def capabilities(self) -> CapabilityList:
        """What agents can do."""
        return await self._call("GET", "/api/v1/capabilities", CapabilityList)


def _one(agent_id: str) -> str:
    return f"{AGENTS}/{part(agent_id)}"


def _if_match(seen: AgentView) -> dict[str, str]:
    return {"If-Match": f'"{seen.version}"'}
