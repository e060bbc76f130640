"""Implements `muster events`, which prints the feed of a task."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.commands.feed_output import write_feed
from muster.cli.console.output import OutputFormat, output_option

if TYPE_CHECKING:
    from muster.client import AsyncMuster, FeedItem
    from muster.common.contracts.feed import FeedEvent


@click.command()
@click.argument("task", metavar="TASK")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Wait for new events until the task ends.")
@click.option("--after", metavar="POSITION", help="Show only events after POSITION, a field of each JSON line.")
@output_option
@api_options
def events(task: str, *, follow: bool, after: str | None, form: OutputFormat, target: TargetOptions) -> None:
    """Show the events of TASK: state changes, agent events, and the guardian's findings and interventions.

    Each event is shown once, even if the connection breaks and is restored. `-o jsonl` is for programs; `-o name`
    prints only the position of each event.
    """

    async def show(api: "AsyncMuster") -> None:
        await follow_feed(api, await whole_task_id(api, task), after=after, follow=follow, form=form)

    call(target, show)


async def follow_feed(
    api: "AsyncMuster", task_id: str, *, after: str | None = None, follow: bool = True, form: OutputFormat = "table"
) -> str | None:
    """Write the feed of a task to stdout; return the task's final state, or None if the task has not ended."""
    end = await show_feed(api.tasks.events(task_id, after, follow=follow), form)
    return None if end is None else str(msgspec.json.decode(end.body)["state"])


async def show_feed(
    feed: "AsyncGenerator[FeedItem[FeedEvent]]", form: OutputFormat = "table"
) -> "FeedItem[FeedEvent] | None":
    """Write the items of a feed to stdout; return its item `end`, or None if the task has not ended."""
    return await write_feed(feed, form, _line)


def _line(sent: "FeedItem[FeedEvent]") -> str | None:
    from muster.cli.console.event_text import event_text

    return event_text(sent.event, thoughts=False) if sent.event else None
