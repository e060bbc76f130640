"""`GET /api/v1/tasks/{task_id}/events`: the feed as server-sent events, resumable at any of them."""

from collections.abc import Iterable
from functools import partial

from starlette.responses import Response

from muster.common.bus.connection import Bus
from muster.common.contract import encode
from muster.common.contracts.feed import EndOfFeed, FeedEvent
from muster.common.contracts.tasks import GetTask
from muster.common.faults import TimedOut, Unavailable
from muster.management_api.adapters.neighbours import Neighbours
from muster.management_api.domain.ending import Ending
from muster.management_api.domain.position import Position
from muster.management_api.domain.principals import Principal
from muster.management_api.domain.queries import FeedQuery
from muster.management_api.routes.feeds import Feeds, Reading, resumed
from muster.management_api.routes.operation import Asked, Operation
from muster.management_api.routes.streamed import EVENT_STREAM, written
from muster.management_api.routes.tasks import ONE, refuse_foreign
from muster.management_api.store.feed import Feed, at_the_end, is_known, last_told, told_before

MANAGER_DEADLINE_S = 2.0


class Events:
    """Feeds, for people and scripts."""

    def __init__(self, bus: Bus, neighbours: Neighbours, feeds: Feeds) -> None:
        self._bus, self._neighbours, self._feeds = bus, neighbours, feeds

    def operations(self) -> Iterable[Operation]:
        """The table."""
        says = "Everything that happens, live and resumable"
        yield Operation("GET", f"{ONE}/events", self.follow, "follow-task", says, reply=EVENT_STREAM, resumable=True)

    async def follow(self, asked: Asked[FeedQuery, None]) -> Response:
        """The feed after a position (`Last-Event-ID`, or `after`), to the present or until the task ends.

        The position `now` is the present end.
        """
        task_id, query = asked.id("task_id"), asked.query
        ending = Ending()
        sandbox_ids = await self._known(task_id, ending, asked.caller)
        position, reset = await resumed(
            asked.request,
            query.after,
            parse=lambda text: Position.parse(text, task_id),
            known=partial(is_known, self._bus, sandbox_ids=sandbox_ids),
            now=lambda: at_the_end(self._bus, task_id, sandbox_ids),
        )
        position = position or Position(task_id=task_id)
        for changed in await told_before(self._bus, position):
            ending.told(changed)
        position.know(sandbox_ids)
        feed = Feed(self._bus, position, ending)
        reading = Reading[FeedEvent](
            line=lambda event: written(event.source, encode(event), position.token()),
            end=lambda: written("end", encode(EndOfFeed(task_id=task_id, state=ending.state or "")), position.token()),
            reset=reset,
        )
        events = reading.live(feed.follow()) if query.follow else reading.present(feed.to_the_present())
        return self._feeds.open(events, asked.caller.user_id)

    async def _known(self, task_id: str, ending: Ending, caller: Principal) -> list[str]:
        """The task's sandboxes as far as they are known. Raises `NotFound` for a task that is not."""
        try:
            view = await self._neighbours.ask(GetTask(task_id=task_id), timeout_s=MANAGER_DEADLINE_S)
        except (Unavailable, TimedOut):
            # The feed does not need the manager, only to know that there is such a task.
            told = await last_told(self._bus, task_id)
            if not told or caller.project is not None:  # whose task it is, only the manager can say
                raise
            for changed in told:
                ending.starts_as(changed.state, changed.version, changed.at)
            return [changed.sandbox_id for changed in told if changed.sandbox_id]
        refuse_foreign(view, caller)
        ending.starts_as(view.state, view.version, view.updated_at)
        return [attempt.sandbox_id for attempt in view.attempts]
