"""The route `GET /api/v1/tasks/{task_id}/events`: a task's feed of server-sent events.

A client can resume the feed at any event.
"""

from functools import partial
from typing import Annotated

from fastapi import Query, Response

from muster.common.bus.connection import Bus
from muster.common.contract import encode
from muster.common.contracts.feed import EndOfFeed, FeedEvent
from muster.common.contracts.tasks import GetTask
from muster.common.faults import TimedOut, Unavailable
from muster.management_api.access.domain.principals import Principal
from muster.management_api.feeds.event_stream import EVENTS, EventStream, LastEventId, written
from muster.management_api.feeds.open_feeds import FeedReading, OpenFeeds, resumed
from muster.management_api.http.application_parts import Nats, Services
from muster.management_api.http.ids import TaskId
from muster.management_api.http.openapi import refuses
from muster.management_api.http.route import routes_of
from muster.management_api.service_client import ServiceClient
from muster.management_api.tasks.domain.feed_end import FeedEnd
from muster.management_api.tasks.domain.queries import FeedQuery
from muster.management_api.tasks.domain.task_cursor import TaskCursor
from muster.management_api.tasks.routes.tasks import TASKS, Viewer, own
from muster.management_api.tasks.store import TaskFeed, at_the_end, is_known, last_told, told_before

MANAGER_DEADLINE_S = 2.0

router = routes_of(TASKS, "tasks")


@router.get(
    "/{task_id}/events", status_code=200, response_class=EventStream, responses=refuses(404, 422) | {200: EVENTS}
)
async def follow_task(
    task_id: TaskId,
    query: Annotated[FeedQuery, Query()],
    caller: Viewer,
    services: Services,
    bus: Nats,
    feeds: OpenFeeds,
    last_event_id: LastEventId = None,
) -> Response:
    """Return the events of a task's feed after a position, up to now or until the task has ended.

    The position is the header `Last-Event-ID` or the parameter `after`. The position `now` is the present end of the
    feed.
    """
    ending = FeedEnd()
    sandbox_ids = await _sandbox_ids(bus, services, task_id, ending, caller)
    position, reset = await resumed(
        last_event_id or query.after,
        parse=lambda text: TaskCursor.parse(text, task_id),
        known=partial(is_known, bus, sandbox_ids=sandbox_ids),
        now=lambda: at_the_end(bus, task_id, sandbox_ids),
    )
    position = position or TaskCursor(task_id=task_id)
    for changed in await told_before(bus, position):
        ending.told(changed)
    position.know(sandbox_ids)
    feed = TaskFeed(bus, position, ending)
    reading = FeedReading[FeedEvent](
        line=lambda event: written(event.source, encode(event), position.token()),
        end=lambda: written("end", encode(EndOfFeed(task_id=task_id, state=ending.state or "")), position.token()),
        reset=reset,
    )
    events = reading.live(feed.follow()) if query.follow else reading.present(feed.to_the_present())
    return feeds.open(events, caller.user_id)


async def _sandbox_ids(
    bus: Bus, services: ServiceClient, task_id: str, ending: FeedEnd, caller: Principal
) -> list[str]:
    """Return the ids of the task's known sandboxes. Raises `NotFound` if the task does not exist."""
    try:
        view = await services.ask(GetTask(task_id=task_id), timeout_s=MANAGER_DEADLINE_S)
    except (Unavailable, TimedOut):
        # The agent manager is unreachable, but stored events can show that the task exists.
        told = await last_told(bus, task_id)
        if not told or caller.project is not None:  # Only the agent manager knows the task's project.
            raise
        for changed in told:
            ending.starts_as(changed.state, changed.version, changed.at)
        return [changed.sandbox_id for changed in told if changed.sandbox_id]
    own(view, caller)
    ending.starts_as(view.state, view.version, view.updated_at)
    return [attempt.sandbox_id for attempt in view.attempts]
