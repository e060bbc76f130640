"""Follows the feeds of tasks for commands that wait for tasks.

A terminal shows what the task waits for. After Ctrl-C the command says that the task goes on.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from muster.cli.console.awaited_work import AwaitedWork, after_event, status_text
from muster.cli.console.output import say
from muster.cli.console.status_line import StatusLine
from muster.common.clock import utc_now

if TYPE_CHECKING:
    from muster.client import AsyncMuster, FeedItem
    from muster.common.contracts.feed import FeedEvent


async def followed_feed(
    api: "AsyncMuster", task_id: str, *, prefix: str = "", after: str | None = None
) -> "AsyncGenerator[FeedItem[FeedEvent]]":
    """Yield the items of a task's feed until the task ends. Between two items a terminal shows what the task waits for.

    The status line is removed before each item. `prefix` begins the status line.
    """
    work = AwaitedWork()
    line = StatusLine(lambda: prefix + status_text(work, utc_now()))
    with line.shown():
        async with aclosing(api.tasks.events(task_id, after)) as items:
            async for item in items:
                line.clear()
                if item.event:
                    work = after_event(work, item.event)
                yield item


async def until_all_ended(api: "AsyncMuster", task_ids: Sequence[str]) -> None:
    """Wait until all these tasks have ended. The tasks are followed one after another, so only one feed is open."""
    from muster.client.feed_items import NOW

    # Only a terminal shows what a task waits for. Without a terminal, only the end of the task is needed.
    after = None if StatusLine(str).enabled else NOW
    for ended, task_id in enumerate(task_ids):
        prefix = f"{ended} of {len(task_ids)} tasks ended · " if len(task_ids) > 1 else ""
        async with aclosing(followed_feed(api, task_id, prefix=prefix, after=after)) as items:
            async for _ in items:
                pass


@contextmanager
def tells_that_tasks_go_on(task_ids: Sequence[str]) -> Generator[None]:
    """On Ctrl-C, tell the user that the tasks go on, and which commands show and end them.

    `asyncio.run` turns Ctrl-C into a cancellation of its main task, so this context must be the outermost one in it.
    """
    try:
        yield
    except asyncio.CancelledError:
        goes_on = "The task goes on." if len(task_ids) == 1 else "The tasks go on."
        one = task_ids[0] if len(task_ids) == 1 else "TASK"
        say(f"{goes_on} `muster task watch {one}` shows it again; `muster task cancel {one}` ends it.")
        raise
