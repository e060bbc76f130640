"""`muster agent logs`: what an agent writes, from a cursor on."""

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.agent_log_lines import readable_lines
from muster.cli.console.output import Form, emit, output_option, say, write_raw
from muster.common.contract import decode
from muster.common.contracts.agent_logs import AgentLogPage, LogLine
from muster.common.contracts.limits import DEFAULT_LINES, MOST_LINES

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient


@click.command()
@click.argument("agent", metavar="AGENT")
@click.option("-f", "--follow", is_flag=True, help="Wait for what comes, until Ctrl-C.")
@click.option(
    *("-n", "--tail", "limit"),
    type=click.IntRange(1, MOST_LINES),
    metavar="N",
    default=DEFAULT_LINES,
    show_default=True,
    help="How many lines, counted from the last one.",
)
@click.option("--cursor", metavar="CURSOR", help="The lines after an earlier answer (told on stderr).")
@click.option("-t", "--timestamps", is_flag=True, help="The whole time of each line, and which launch wrote it.")
@click.option("--raw", is_flag=True, help="The lines as they were written, and nothing else.")
@output_option
@api_options
def logs(
    agent: str,
    *,
    follow: bool,
    limit: int,
    cursor: str | None,
    timestamps: bool,
    raw: bool,
    form: Form,
    target: TargetOptions,
) -> None:
    """Print the last lines that AGENT wrote: when, and what; a line of structured logging is put into words.

    With -f each line is printed once and in order, also when the API was away meanwhile.
    """
    lines = _Lines(form, timestamps=timestamps, raw=raw)

    async def act(api: "ApiClient") -> AgentLogPage:
        agent_id = await whole_agent_id(api, agent)
        page = await api.fleet.logs(agent_id, cursor=cursor, limit=limit)
        lines.write(page)
        if follow:
            await lines.follow(api, agent_id, page.next_cursor)
        return page

    if follow and form == "json":
        raise click.UsageError("-f goes with -o table, jsonl, yaml or name: a JSON text has an end")
    page = call(target, act)
    if follow:
        return
    if form == "json":
        emit(page)
    elif not page.lines:
        say("Nothing was written. What an agent does for a task is in `muster events TASK`.")
    if len(page.lines) == limit and cursor:
        say(f"There may be more: --cursor {page.next_cursor}")


class _Lines:
    """How lines are printed. `-o json` without -f is the page itself, printed at the end."""

    def __init__(self, form: Form, *, timestamps: bool, raw: bool) -> None:
        self._form, self._timestamps, self._raw = form, timestamps, raw

    async def follow(self, api: "ApiClient", agent_id: str, cursor: str) -> None:
        """What comes after the cursor, until interrupted."""
        async with aclosing(api.fleet.follow_logs(agent_id, cursor)) as sent:
            async for one in sent:
                if one.name == "lines":
                    self.write(decode(one.body, AgentLogPage))
                elif one.name == "reset":
                    say("That position is not known (any more): the output follows from what is kept.")

    def write(self, page: AgentLogPage) -> None:
        for line in page.lines:
            match self._form:
                case "table":
                    self._tell(line)
                case "name":
                    sys.stdout.write(f"{line.position}.{line.n}\n")
                case "yaml":
                    emit([msgspec.to_builtins(line)], "yaml")
                case "jsonl":
                    emit(line, "jsonl")
                case _:
                    return
        sys.stdout.flush()

    def _tell(self, line: LogLine) -> None:
        if self._raw:
            write_raw(f"{line.text}\n")
            return
        whole = f"{line.at:%Y-%m-%dT%H:%M:%S.%f}Z #{line.launch}"
        at = whole if self._timestamps else f"{line.at.astimezone():%H:%M:%S}"
        first, *more = readable_lines(line.text)
        sys.stdout.write(f"{at}  {first}".rstrip() + "\n")
        for text in more:
            sys.stdout.write(f"{'':<{len(at)}}  {text}\n")
