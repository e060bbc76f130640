"""`/api/v1/agents/{agent_id}/status|metrics|logs`: state, numbers and output of an agent."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Query, Request, Response

from muster.common.bus.connection import Bus
from muster.common.bus.streams import when_stored
from muster.common.contract import encode
from muster.common.contracts.agent_health import AgentMetricsView, AgentStatusView, GetAgentMetrics, GetAgentStatus
from muster.common.contracts.agent_logs import AgentLogPage, GetAgentLogs
from muster.common.faults import TimedOut, Unavailable
from muster.management_api.agents.domain.queries import LogQuery
from muster.management_api.agents.routes.agents import AGENTS, Viewer
from muster.management_api.feeds.event_stream import (
    EVENTS,
    KEEP_ALIVE,
    KEEP_ALIVE_S,
    LastEventId,
    opening,
    wanted_by,
    written,
)
from muster.management_api.feeds.open_feeds import OpenFeeds
from muster.management_api.http.ids import AgentId
from muster.management_api.http.openapi import refuses
from muster.management_api.http.parts import Services, part
from muster.management_api.http.route import routes_of
from muster.management_api.service_client import ServiceClient

RETRY_S = 0.5

router = routes_of(AGENTS, "agents")


@router.get("/{agent_id}/status", responses=refuses(404, 422))
async def get_agent_status(agent_id: AgentId, _: Viewer, services: Services) -> AgentStatusView:
    """Return the state and what it rests on (`cites`). A running agent is asked for its health."""
    return await services.ask(GetAgentStatus(agent_id=agent_id))


@router.get("/{agent_id}/metrics", responses=refuses(404, 422))
async def get_agent_metrics(agent_id: AgentId, _: Viewer, services: Services) -> AgentMetricsView:
    """Return the last numbers of the agent, and those that the manager counts about it."""
    return await services.ask(GetAgentMetrics(agent_id=agent_id))


class AgentLogPages:
    """Reads the output of agents in pages."""

    def __init__(self, bus: Bus, services: ServiceClient) -> None:
        self._bus, self._services = bus, services

    async def page(self, agent_id: str, cursor: str | None, limit: int) -> AgentLogPage:
        """Return one page as it is now."""
        return await self._services.ask(GetAgentLogs(agent_id=agent_id, cursor=cursor, limit=limit))

    async def waited(self, agent_id: str, query: LogQuery) -> AgentLogPage:
        """Return one page, an empty one only after `wait_s` seconds.

        The API waits, so that no slot of the manager is used.
        """
        page = await self.page(agent_id, query.cursor, query.limit)
        if page.lines or not query.wait_s:
            return page
        loop = asyncio.get_running_loop()
        deadline = loop.time() + query.wait_s
        async with self._bus.woken_by(when_stored(f"agent.{agent_id}.log")) as woken:
            while not page.lines:
                woken.clear()
                page = await self.page(agent_id, page.next_cursor, query.limit)
                if page.lines or not await _within(woken, deadline - loop.time()):
                    break
        return page

    async def written(self, page: AgentLogPage, limit: int, *, live: bool) -> AsyncGenerator[bytes]:
        """Yield this page and those after it as server-sent events: without end if `live`, else up to the present."""
        yield opening(reset=page.reset)
        async with self._bus.woken_by(when_stored(f"agent.{page.agent_id}.log")) as woken:
            while True:
                woken.clear()
                if page.lines:
                    yield written("lines", encode(page), page.next_cursor)
                elif not live:
                    return
                elif not await _within(woken, KEEP_ALIVE_S):
                    yield KEEP_ALIVE
                page = await self._after(page, limit)

    async def _after(self, page: AgentLogPage, limit: int) -> AgentLogPage:
        """Return the page after this one; while the manager is away, wait."""
        while True:
            try:
                return await self.page(page.agent_id, page.next_cursor, limit)
            except (Unavailable, TimedOut):
                await asyncio.sleep(RETRY_S)  # nothing announces that the manager is back


@router.get("/{agent_id}/logs", response_model=AgentLogPage, responses=refuses(404, 422) | {200: EVENTS})
async def get_agent_logs(
    agent_id: AgentId,
    query: Annotated[LogQuery, Query()],
    caller: Viewer,
    lines: Annotated[AgentLogPages, part(AgentLogPages)],
    feeds: OpenFeeds,
    request: Request,
    last_event_id: LastEventId = None,
) -> AgentLogPage | Response:
    """Return the output after `cursor`, or the last `limit` lines; `next_cursor` also continues with later lines.

    With `follow=true` or `Accept: text/event-stream` the reply is a stream of server-sent events: each `lines` event
    has a page as its data and the page's cursor as its `id`. A client that sends `Last-Event-ID` misses no line and
    gets none twice.
    """
    if query.follow or wanted_by(request):
        first = await lines.page(agent_id, last_event_id or query.cursor, query.limit)
        return feeds.open(lines.written(first, query.limit, live=query.follow is not False), caller.user_id)
    page = await lines.waited(agent_id, query)
    if query.wait_s:
        await feeds.access.refuse(request.scope)
    return page


async def _within(woken: asyncio.Event, wait_s: float) -> bool:
    """Return whether the event was set in time."""
    try:
        async with asyncio.timeout(max(0.0, wait_s)):
            await woken.wait()
    except TimeoutError:
        return False
    return True
