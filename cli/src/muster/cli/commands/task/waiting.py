"""Implements `muster task watch` and `muster task wait`, which follow tasks until they end."""

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.commands.feed_output import write_feed
from muster.cli.commands.task.following import followed_feed, tells_that_tasks_go_on, until_all_ended
from muster.cli.commands.task.outcome import exit_with
from muster.cli.commands.task.tasks import TASKS
from muster.cli.console.output import Exit, OutputFormat, emit_rows, output_option, say
from muster.cli.console.params import NUMBER
from muster.common.contracts.tasks import FEED_ENDS

if TYPE_CHECKING:
    from muster.client import AsyncMuster, FeedItem
    from muster.common.contracts.feed import FeedEvent
    from muster.common.contracts.tasks import TaskView


@click.command()
@click.argument("task_id", metavar="TASK")
@output_option
@api_options
def watch(task_id: str, *, form: OutputFormat, target: TargetOptions) -> None:
    """Show the events of TASK until the task ends. The exit code is 6 unless the task completed.

    An action is shown with the thought that led to it. `muster task logs` also shows complete outputs.
    """

    async def act(api: "AsyncMuster") -> "TaskView":
        whole = await whole_task_id(api, task_id)
        with tells_that_tasks_go_on([whole]):
            await write_feed(followed_feed(api, whole), form, _event_text)
            return await api.tasks.get(whole)

    exit_with([call(target, act)])


def _event_text(sent: "FeedItem[FeedEvent]") -> str | None:
    from muster.cli.console.event_text import event_text

    return event_text(sent.event) if sent.event else None


@click.command()
@click.argument("task_ids", metavar="TASK...", nargs=-1, required=True)
@click.option(
    "--timeout", "timeout_s", type=NUMBER, metavar="SECONDS", help="Stop waiting after this time, and exit with 8."
)
@output_option
@api_options
def wait(task_ids: Sequence[str], *, timeout_s: float | None, form: OutputFormat, target: TargetOptions) -> None:
    """Wait until all TASKs have ended, and show them. The exit code is 6 unless all tasks completed.

    The tasks go on if the command ends early.
    """

    async def act(api: "AsyncMuster") -> "list[TaskView]":
        whole = list(dict.fromkeys([await whole_task_id(api, one) for one in task_ids]))
        with tells_that_tasks_go_on(whole):
            try:
                async with asyncio.timeout(timeout_s):
                    await until_all_ended(api, whole)
            except TimeoutError:
                pass  # The states of the tasks tell which of them are open.
            return [await api.tasks.get(one) for one in whole]

    views = call(target, act)
    emit_rows(msgspec.to_builtins(views), form, TASKS)
    if still_open := [view for view in views if view.state not in FEED_ENDS]:
        for view in still_open:
            say(f"Task {view.task_id} has not ended within {timeout_s:g} s (state: {view.state}). The task goes on.")
        sys.exit(Exit.TIMEOUT)
    exit_with(views)
