"""Implements `muster events`, which prints the feed of a task."""

from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.commands.feed_output import write_feed
from muster.cli.console.output import Form, output_option

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient
    from muster.cli.client.sse import ServerSentEvent


@click.command()
@click.argument("task", metavar="TASK")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Wait for new events until the task ends.")
@click.option("--after", metavar="POSITION", help="Show only events after POSITION, a field of each JSON line.")
@output_option
@api_options
def events(task: str, *, follow: bool, after: str | None, form: Form, target: TargetOptions) -> None:
    """Show the events of TASK: its states, its agents' events, and the guardian's findings and interventions.

    A cut connection is resumed without loss or repetition. `-o jsonl` is for programs; `-o name` prints only the
    position of each event.
    """

    async def show(api: "ApiClient") -> None:
        await follow_feed(api, await whole_task_id(api, task), after=after, follow=follow, form=form)

    call(target, show)


async def follow_feed(
    api: "ApiClient", task_id: str, *, after: str | None = None, follow: bool = True, form: Form = "table"
) -> str | None:
    """Write the feed of a task to stdout; return the task's final state, or None if the task has not ended."""
    end = await write_feed(api.events(task_id, after, follow=follow), form, _line)
    return None if end is None else str(msgspec.json.decode(end.body)["state"])


def _line(sent: "ServerSentEvent") -> str | None:
    from muster.cli.console.event_line import event_line

    return event_line(sent.event) if sent.event else None
