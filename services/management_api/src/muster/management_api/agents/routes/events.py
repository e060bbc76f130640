"""The route `GET /api/v1/agents/{agent_id}/events`, which returns an agent's events as a page or as a feed.

A client can resume the feed at any event.
"""

from contextlib import aclosing
from functools import partial
from typing import Annotated

from fastapi import Query, Request, Response

from muster.common.bus.connection import Bus
from muster.common.contract import encode
from muster.common.contracts.agent_registry import GetAgent
from muster.common.contracts.agents import AgentChanged
from muster.common.contracts.feed import AgentFeedPage
from muster.common.faults import NotFound, TimedOut, Unavailable
from muster.management_api.agents.domain.agent_cursor import AgentCursor
from muster.management_api.agents.domain.queries import AgentFeedQuery
from muster.management_api.agents.routes.agents import AGENTS, Viewer
from muster.management_api.agents.store import AgentFeed, at_the_end, knows, was_heard_of
from muster.management_api.feeds.event_stream import EVENTS, LastEventId, written
from muster.management_api.feeds.open_feeds import FeedReading, OpenFeeds, resumed
from muster.management_api.http.application_parts import Nats, Services
from muster.management_api.http.ids import AgentId
from muster.management_api.http.openapi import refuses
from muster.management_api.http.route import routes_of
from muster.management_api.service_client import ServiceClient

MANAGER_DEADLINE_S = 2.0

router = routes_of(AGENTS, "agents")


@router.get("/{agent_id}/events", response_model=AgentFeedPage, responses=refuses(404, 422) | {200: EVENTS})
async def follow_agent(
    agent_id: AgentId,
    query: Annotated[AgentFeedQuery, Query()],
    caller: Viewer,
    services: Services,
    bus: Nats,
    feeds: OpenFeeds,
    request: Request,
    last_event_id: LastEventId = None,
) -> AgentFeedPage | Response:
    """Return the agent's events after a position (`Last-Event-ID`, or `after`), up to now or until its deletion.

    The reply is a stream of server-sent events. Each event named `agent` has an `AgentChanged` as its data. The event
    `reset` is sent if the position is unknown: all events of the agent then follow. The event `end` is sent when the
    agent is deleted. The position `now` is the present end of the events. With `Accept: application/json` the reply is
    one page.
    """
    gone = await _is_gone(bus, services, agent_id)
    place, reset = await resumed(
        last_event_id or query.after,
        parse=lambda text: AgentCursor.parse(text, agent_id),
        known=partial(knows, bus),
        now=lambda: at_the_end(bus, agent_id),
    )
    feed = AgentFeed(bus, place or AgentCursor(agent_id))
    if "application/json" in request.headers.get("accept", ""):
        return await _page(feed, query.limit)
    reading = FeedReading[AgentChanged](
        line=lambda event: written("agent", encode(event), feed.place.token()),
        end=lambda: written("end", b"{}", feed.place.token()),
        reset=reset,
    )
    if query.follow and not gone:
        return feeds.open(reading.live(feed.follow()), caller.user_id)
    return feeds.open(reading.present(feed.to_the_present(), ended=query.follow), caller.user_id)


async def _is_gone(bus: Bus, services: ServiceClient, agent_id: str) -> bool:
    """Return whether an agent was deleted. Raises `NotFound` if the agent never existed.

    If the agent manager is unreachable, an agent with stored events counts as not deleted.
    """
    try:
        await services.ask(GetAgent(agent_id=agent_id), timeout_s=MANAGER_DEADLINE_S)
    except (NotFound, Unavailable, TimedOut) as fault:
        if not await was_heard_of(bus, agent_id):
            raise
        return isinstance(fault, NotFound)
    return False


async def _page(feed: AgentFeed, limit: int) -> AgentFeedPage:
    events: list[AgentChanged] = []
    async with aclosing(feed.to_the_present()) as present:
        async for event in present:
            events.append(event)
            if len(events) == limit:
                break
    return AgentFeedPage(agent_id=feed.place.agent_id, events=events, next_cursor=feed.place.token())
