"""Calls the API's routes for tasks."""

import math
from collections.abc import AsyncGenerator
from typing import Unpack

from muster.client._async.connection import AsyncApiConnection
from muster.client._async.downloads import read_verified
from muster.client._async.feeds import read_feed
from muster.client._async.paging import all_pages
from muster.client.errors import ApiTimeoutError
from muster.client.feed_items import NOW, TASK_FEED, FeedItem
from muster.client.filters import TaskFilters
from muster.client.http_messages import filter_query, idempotency, part
from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.guardian import GuardianReport, InterventionView
from muster.common.contracts.limits import DEFAULT_PAGE, LARGEST_PAGE
from muster.common.contracts.task_bodies import Cancellation, NewDeliver, NewMessage, NewTask
from muster.common.contracts.tasks import TaskPage, TaskView

TASKS = "/api/v1/tasks"


class AsyncTaskCalls:
    """The API calls about tasks, available as `client.tasks`."""

    def __init__(self, connection: AsyncApiConnection) -> None:
        self._connection, self._call = connection, connection.call

    async def submit(self, new: NewTask, *, idempotency_key: str | None = None) -> TaskView:
        """Queue a task.

        If a program passes the same `idempotency_key` again within a day, the API returns the same task, even after a
        restart of the program. Without an `idempotency_key` each call creates one new task, even if the call has to
        send its request several times.
        """
        return await self._call("POST", TASKS, TaskView, body=new, headers=idempotency(idempotency_key))

    async def list(
        self, *, limit: int = DEFAULT_PAGE, cursor: str | None = None, **filters: Unpack[TaskFilters]
    ) -> TaskPage:
        """Return a page of matching tasks, newest first. Its `next_cursor` is the `cursor` of the next page."""
        query = [*_query(filters), ("limit", limit), ("cursor", cursor)]
        return await self._call("GET", TASKS, TaskPage, query=query)

    async def all(self, **filters: Unpack[TaskFilters]) -> AsyncGenerator[TaskView]:
        """Yield all tasks that match the filters, newest first."""
        async for page in all_pages(lambda cursor: self.list(limit=LARGEST_PAGE, cursor=cursor, **filters)):
            for task in page.tasks:
                yield task

    async def get(self, task_id: str) -> TaskView:
        """Return a task with its attempts."""
        return await self._call("GET", _path(task_id), TaskView)

    async def cancel(self, task_id: str, reason: str | None = None) -> TaskView:
        """Cancel a task and stop its attempt; a cancelled task cannot be resumed."""
        body = Cancellation(reason=reason) if reason else Cancellation()
        return await self._call("POST", f"{_path(task_id)}/cancel", TaskView, body=body)

    async def deliver(
        self, task_id: str, *, branch: str | None = None, pull_request: bool = False, title: str | None = None
    ) -> TaskView:
        """Push the accepted result of a task that has ended to a branch, and perhaps open a pull request.

        Returns at once; the task's `delivery` shows the outcome later. A repeated call makes no second branch and no
        second pull request, and tries a failed delivery again.
        """
        body = NewDeliver(branch=branch, pull_request=pull_request, title=title)
        return await self._call("POST", f"{_path(task_id)}/deliver", TaskView, body=body)

    async def steer(self, task_id: str, text: str, *, urgent: bool = False) -> InterventionView:
        """Send a steering message to the agent that works on a task; `urgent` interrupts the agent's current action."""
        body = NewMessage(text=text, urgent=urgent)
        return await self._call("POST", f"{_path(task_id)}/steer", InterventionView, body=body)

    async def report(self, task_id: str) -> GuardianReport:
        """Return the guardian's findings in a task, and all interventions (steering messages) in this task."""
        return await self._call("GET", f"{_path(task_id)}/guardian", GuardianReport)

    async def payload(self, task_id: str, sha256: str) -> AsyncGenerator[bytes]:
        """Yield the pieces of the whole body of an event; `sha256` is the event's `payload`.

        Raises `UnexpectedReplyError` after the last piece if the pieces do not match the digest.
        """
        async for piece in read_verified(self._connection, f"{_path(task_id)}/payloads/{part(sha256)}", sha256):
            yield piece

    def events(
        self, task_id: str, after: str | None = None, *, follow: bool = True, openings: bool = False
    ) -> AsyncGenerator[FeedItem[FeedEvent]]:
        """Yield the events of a task until the task ends, each once and in order; reconnect if the connection is cut.

        `after` is the position of an earlier item; without `follow` the feed ends at the newest event. With `openings`
        an item `open` is yielded for each new connection. Raises an `ApiCallError` if the API refuses the request or
        is unreachable for a minute.
        """
        return read_feed(
            self._connection, f"{_path(task_id)}/events", TASK_FEED, after, follow=follow, openings=openings
        )

    async def wait(self, task_id: str, timeout_s: float | None = None) -> TaskView:
        """Wait until a task ends, and return it. The task's feed announces the end, so nothing is polled.

        Raises `ApiTimeoutError` if the task has not ended after `timeout_s` seconds; None waits without limit.
        """
        monotonic = self._connection.options.monotonic
        ends_at_s = math.inf if timeout_s is None else monotonic() + timeout_s
        try:
            async for _ in read_feed(self._connection, f"{_path(task_id)}/events", TASK_FEED, NOW, ends_at_s=ends_at_s):
                pass
        except ApiTimeoutError as error:
            if monotonic() < ends_at_s:
                raise
            raise ApiTimeoutError(f"task {task_id} did not end within {timeout_s:g} s") from error
        return await self.get(task_id)


def _path(task_id: str) -> str:
    return f"{TASKS}/{part(task_id)}"


def _query(filters: TaskFilters) -> list[tuple[str, object]]:
    return filter_query({name: value for name, value in filters.items() if name != "labels"}, filters.get("labels"))
