"""The routes `status`, `metrics` and `logs` below `/api/v1/agents/{agent_id}`: an agent's state, metrics and output."""

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
from muster.management_api.http.application_parts import Services, part
from muster.management_api.http.ids import AgentId
from muster.management_api.http.openapi import refuses
from muster.management_api.http.route import routes_of
from muster.management_api.service_client import ServiceClient

RETRY_S = 0.5

router = routes_of(AGENTS, "agents")


@router.get("/{agent_id}/status", responses=refuses(404, 422))
async def get_agent_status(agent_id: AgentId, _: Viewer, services: Services) -> AgentStatusView:
    """Return the agent's state and the evidence for this state (`cites`).

    The agent manager also asks a running agent for its health.
    """
    return await services.ask(GetAgentStatus(agent_id=agent_id))


@router.get("/{agent_id}/metrics", responses=refuses(404, 422))
async def get_agent_metrics(agent_id: AgentId, _: Viewer, services: Services) -> AgentMetricsView:
    """Return the last metrics that the agent has reported, and the agent manager's own counts."""
    return await services.ask(GetAgentMetrics(agent_id=agent_id))


class AgentLogPages:
    """Reads the output of agents' processes in pages of lines."""

    def __init__(self, bus: Bus, services: ServiceClient) -> None:
        self._bus, self._services = bus, services

    async def page(self, agent_id: str, cursor: str | None, limit: int) -> AgentLogPage:
        """Return the page of an agent's output lines after `cursor`, without waiting for new lines."""
        return await self._services.ask(GetAgentLogs(agent_id=agent_id, cursor=cursor, limit=limit))

    async def waited(self, agent_id: str, query: LogQuery) -> AgentLogPage:
        """Return one page of an agent's output lines. If there is no line, wait up to `wait_s` seconds for a line.

        The API waits instead of the agent manager, so that the wait uses none of the manager's slots for requests.
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
        """Yield a page of output lines and the following pages as server-sent events.

        With `live`, new pages follow as the agent writes new lines. Without `live`, the pages end with the last stored
        line.
        """
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
        """Return the next page of output lines. While the agent manager is unreachable, repeat the request."""
        while True:
            try:
                return await self.page(page.agent_id, page.next_cursor, limit)
            except (Unavailable, TimedOut):
                # The agent manager sends no signal when it is reachable again, so this loop tries again and again.
                await asyncio.sleep(RETRY_S)


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
    """Return the agent's output lines after `cursor`, or the last `limit` lines. `next_cursor` returns the later lines.

    With `follow=true` or `Accept: text/event-stream` the reply is a stream of server-sent events: each `lines` event
    has a page as its data and the page's cursor as its `id`. A client that resumes with `Last-Event-ID` misses no line
    and gets no line twice.
    """
    if query.follow or wanted_by(request):
        first = await lines.page(agent_id, last_event_id or query.cursor, query.limit)
        return feeds.open(lines.written(first, query.limit, live=query.follow is not False), caller.user_id)
    page = await lines.waited(agent_id, query)
    if query.wait_s:
        await feeds.access.refuse(request.scope)
    return page


async def _within(woken: asyncio.Event, wait_s: float) -> bool:
    """Wait until the event is set, and return whether this happened within `wait_s` seconds."""
    try:
        async with asyncio.timeout(max(0.0, wait_s)):
            await woken.wait()
    except TimeoutError:
        return False
    return True
