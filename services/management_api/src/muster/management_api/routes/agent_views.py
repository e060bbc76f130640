"""`/api/v1/agents/{agent_id}/status|metrics|logs`: how an agent is, and what it says."""

import asyncio
from collections.abc import AsyncGenerator, Iterable

from starlette.responses import Response

from muster.common.bus.connection import Bus
from muster.common.bus.streams import when_stored
from muster.common.contract import encode
from muster.common.contracts.agent_health import AgentMetricsView, AgentStatusView, GetAgentMetrics, GetAgentStatus
from muster.common.contracts.agent_logs import AgentLogPage, GetAgentLogs
from muster.common.faults import TimedOut, Unavailable
from muster.management_api.adapters.neighbours import Neighbours
from muster.management_api.domain.queries import LogQuery
from muster.management_api.routes.agents import ONE
from muster.management_api.routes.answers import answer
from muster.management_api.routes.feeds import Feeds
from muster.management_api.routes.operation import Asked, Operation
from muster.management_api.routes.streamed import (
    EVENT_STREAM,
    KEEP_ALIVE,
    KEEP_ALIVE_S,
    last_event_id,
    opening,
    written,
)
from muster.management_api.routes.streamed import wants as wants_events

RETRY_S = 0.5


class AgentViews:
    """What there is to see of one agent."""

    def __init__(self, bus: Bus, neighbours: Neighbours, feeds: Feeds) -> None:
        self._bus, self._neighbours, self._feeds = bus, neighbours, feeds

    def operations(self) -> Iterable[Operation]:
        """The table."""
        of = Operation
        status, numbers, says = "How an agent is", "An agent's numbers", "What an agent writes"
        yield of("GET", f"{ONE}/status", self.status, "get-agent-status", status, reply=AgentStatusView)
        yield of("GET", f"{ONE}/metrics", self.metrics, "get-agent-metrics", numbers, reply=AgentMetricsView)
        logs = (AgentLogPage, EVENT_STREAM)
        yield of("GET", f"{ONE}/logs", self.logs, "get-agent-logs", says, reply=logs, resumable=True)

    async def status(self, asked: Asked[None, None]) -> Response:
        """State, and what it rests on (`cites`). A running agent is asked for its health just now."""
        return answer(await self._neighbours.ask(GetAgentStatus(agent_id=asked.id("agent_id"))))

    async def metrics(self, asked: Asked[None, None]) -> Response:
        """The last numbers the agent gave, and those counted about it."""
        return answer(await self._neighbours.ask(GetAgentMetrics(agent_id=asked.id("agent_id"))))

    async def logs(self, asked: Asked[LogQuery, None]) -> Response:
        """Its output after `cursor`, or the last `limit` lines; `next_cursor` continues, also with lines yet to come.

        With `follow=true` or `Accept: text/event-stream` as server-sent events: each `lines` has a page as its data and
        the page's cursor as its `id`, so that a reader that sends `Last-Event-ID` misses nothing and has nothing twice.
        """
        query, agent_id = asked.query, asked.id("agent_id")
        cursor = last_event_id(asked.request) or query.cursor
        if query.follow or wants_events(asked.request):
            first = await self._page(agent_id, cursor, query.limit)
            live = query.follow is not False
            return self._feeds.open(self._written(first, query.limit, live=live), asked.caller.user_id)
        page = await self._waited(agent_id, query)
        if query.wait_s:
            await self._feeds.standing.refuse(asked.request.scope)
        return answer(page)

    async def _page(self, agent_id: str, cursor: str | None, limit: int) -> AgentLogPage:
        return await self._neighbours.ask(GetAgentLogs(agent_id=agent_id, cursor=cursor, limit=limit))

    async def _waited(self, agent_id: str, query: LogQuery) -> AgentLogPage:
        """One page; an empty one only after `wait_s`. Waited for here: no reader holds a place in the manager."""
        page = await self._page(agent_id, query.cursor, query.limit)
        if page.lines or not query.wait_s:
            return page
        loop = asyncio.get_running_loop()
        deadline = loop.time() + query.wait_s
        async with self._bus.woken_by(when_stored(f"agent.{agent_id}.log")) as woken:
            while not page.lines:
                woken.clear()
                page = await self._page(agent_id, page.next_cursor, query.limit)
                if page.lines or not await _within(woken, deadline - loop.time()):
                    break
        return page

    async def _written(self, page: AgentLogPage, limit: int, *, live: bool) -> AsyncGenerator[bytes]:
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
        """What follows; with the manager away, nothing until it is back."""
        while True:
            try:
                return await self._page(page.agent_id, page.next_cursor, limit)
            except (Unavailable, TimedOut):
                await asyncio.sleep(RETRY_S)  # nothing announces that the manager is back


async def _within(woken: asyncio.Event, wait_s: float) -> bool:
    """Whether it was set in time."""
    try:
        async with asyncio.timeout(max(0.0, wait_s)):
            await woken.wait()
    except TimeoutError:
        return False
    return True
