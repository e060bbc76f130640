"""Implements `muster task logs`, which prints the transcript of a task."""

import sys
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.commands.task.following import followed_feed, tells_that_tasks_go_on
from muster.cli.console.output import Exit, OutputFormat, emit, fail, output_option, say
from muster.common.terminal import printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from muster.cli.console.transcript import TranscriptEntry
    from muster.client import AsyncMuster, FeedItem
    from muster.common.contracts.feed import FeedEvent


@click.command()
@click.argument("task_id", metavar="TASK")
@click.option("-f", "--follow", is_flag=True, help="Wait for new entries until the task ends.")
@click.option("--full", is_flag=True, help="Show complete outputs, messages and paths, instead of folded ones.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Show only the attempt with this number.")
@output_option
@api_options
def logs(
    task_id: str, *, follow: bool, full: bool, attempt: int | None, form: OutputFormat, target: TargetOptions
) -> None:
    """Show the transcript of TASK: the agent's thoughts, commands and outputs, messages and state changes.

    `-o jsonl` prints each entry as JSON, with complete texts. `muster events` shows the unchanged events.
    """
    printer = TranscriptPrinter(form, full=full)

    async def act(api: "AsyncMuster") -> None:
        whole = await whole_task_id(api, task_id)
        await _refuse_unknown_attempt(api, whole, attempt, follow=follow)
        with tells_that_tasks_go_on([whole]) if follow else nullcontext():
            items = followed_feed(api, whole) if follow else api.tasks.events(whole, follow=False)
            await printer.write_feed(items, attempt)

    call(target, act)


async def _refuse_unknown_attempt(api: "AsyncMuster", task_id: str, attempt: int | None, *, follow: bool) -> None:
    if attempt is None or follow:
        return
    numbers = [one.epoch for one in (await api.tasks.get(task_id)).attempts]
    if attempt not in numbers:
        there = f"its attempts are {', '.join(map(str, numbers))}" if numbers else "it has no attempts yet"
        fail(f"task {task_id} has no attempt {attempt}; {there}", Exit.NOT_FOUND)


class TranscriptPrinter:
    """Prints the entries of a transcript in the format of `-o`; `-o json` prints one list at the end of the feed."""

    def __init__(self, form: OutputFormat, *, full: bool) -> None:
        from muster.cli.console.transcript_text import TranscriptText

        self._form = form
        self._text = TranscriptText.of_stream(sys.stdout, full=full)
        self._collected: list[TranscriptEntry] = []

    async def write_feed(self, feed: "AsyncGenerator[FeedItem[FeedEvent]]", attempt: int | None) -> None:
        """Print the entries of all events of a feed; with `attempt`, only those of this attempt."""
        from muster.cli.console.transcript import transcript_entries

        printed = False
        async with aclosing(feed) as items:
            async for item in items:
                if item.event is None or attempt not in (None, item.event.epoch):
                    continue
                entries = transcript_entries(item.event, item.position)
                self._write(entries)
                printed = printed or bool(entries)
        if self._form == "json":
            emit(self._collected)
        elif not printed:
            say("The task has no entries yet. `muster task logs -f` waits for them.")

    def _write(self, entries: "Sequence[TranscriptEntry]") -> None:
        match self._form:
            case "json":
                self._collected += entries
            case "jsonl":
                for entry in entries:
                    emit(entry, "jsonl")
            case "yaml":
                for entry in entries:
                    emit([msgspec.to_builtins(entry)], "yaml")
            case "name":
                if entries:
                    sys.stdout.write(printable(entries[0].position) + "\n")
            case _:
                for entry in entries:
                    sys.stdout.write("".join(f"{line}\n" for line in self._text.lines(entry)))
        sys.stdout.flush()
