"""`GET /api/v1/agents/{agent_id}/events`: what became of an agent, as a page or a feed, resumable at any event."""

from collections.abc import Iterable
from contextlib import aclosing
from functools import partial

from starlette.responses import Response

from muster.common.bus.connection import Bus
from muster.common.contract import encode
from muster.common.contracts.agent_registry import GetAgent
from muster.common.contracts.agents import AgentChanged
from muster.common.contracts.feed import AgentFeedPage
from muster.common.faults import NotFound, TimedOut, Unavailable
from muster.management_api.adapters.neighbours import Neighbours
from muster.management_api.domain.place import Place
from muster.management_api.domain.queries import AgentFeedQuery
from muster.management_api.routes.agents import ONE
from muster.management_api.routes.answers import answer
from muster.management_api.routes.feeds import Feeds, Reading, resumed
from muster.management_api.routes.operation import Asked, Operation
from muster.management_api.routes.streamed import EVENT_STREAM, written
from muster.management_api.store.agent_feed import AgentFeed, at_the_end, knows, was_heard_of

MANAGER_DEADLINE_S = 2.0


class AgentEvents:
    """The feeds of agents."""

    def __init__(self, bus: Bus, neighbours: Neighbours, feeds: Feeds) -> None:
        self._bus, self._neighbours, self._feeds = bus, neighbours, feeds

    def operations(self) -> Iterable[Operation]:
        """The table."""
        yield Operation(
            "GET",
            f"{ONE}/events",
            self.events,
            "follow-agent",
            "What becomes of an agent, live and resumable",
            reply=(EVENT_STREAM, AgentFeedPage),
            resumable=True,
        )

    async def events(self, asked: Asked[AgentFeedQuery, None]) -> Response:
        """The agent's events after a place (`Last-Event-ID`, or `after`), to the present or until it is deleted.

        Server-sent events named `agent`, each with an `AgentChanged` as its data; `reset` when the place was unknown
        and everything follows; `end` when it is deleted. The place `now` is the present end. With
        `Accept: application/json` one page.
        """
        agent_id, query = asked.id("agent_id"), asked.query
        gone = await self._is_gone(agent_id)
        place, reset = await resumed(
            asked.request,
            query.after,
            parse=lambda text: Place.parse(text, agent_id),
            known=partial(knows, self._bus),
            now=lambda: at_the_end(self._bus, agent_id),
        )
        feed = AgentFeed(self._bus, place or Place(agent_id))
        if "application/json" in asked.request.headers.get("accept", ""):
            return answer(await _page(feed, query.limit))
        reading = Reading[AgentChanged](
            line=lambda event: written("agent", encode(event), feed.place.token()),
            end=lambda: written("end", b"{}", feed.place.token()),
            reset=reset,
        )
        if query.follow and not gone:
            return self._feeds.open(reading.live(feed.follow()), asked.caller.user_id)
        return self._feeds.open(reading.present(feed.to_the_present(), ended=query.follow), asked.caller.user_id)

    async def _is_gone(self, agent_id: str) -> bool:
        """Whether it was deleted. Raises `NotFound` for one nobody has heard of; the manager may be away."""
        try:
            await self._neighbours.ask(GetAgent(agent_id=agent_id), timeout_s=MANAGER_DEADLINE_S)
        except (NotFound, Unavailable, TimedOut) as fault:
            if not await was_heard_of(self._bus, agent_id):
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
