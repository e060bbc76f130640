"""Implements `muster agent logs`, which prints the lines that an agent writes to stdout and stderr."""

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.agent_log_lines import readable_lines
from muster.cli.console.output import OutputFormat, emit, output_option, say, write_raw
from muster.common.contracts.agent_logs import AgentLogPage, LogLine
from muster.common.contracts.limits import DEFAULT_LINES, MOST_LINES
from muster.common.terminal import printable

if TYPE_CHECKING:
    from muster.client import AsyncMuster


@click.command()
@click.argument("agent", metavar="AGENT")
@click.option("-f", "--follow", is_flag=True, help="Wait for new lines until Ctrl-C.")
@click.option(
    *("-n", "--tail", "limit"),
    type=click.IntRange(1, MOST_LINES),
    metavar="N",
    default=DEFAULT_LINES,
    show_default=True,
    help="Show the last N lines.",
)
@click.option("--cursor", metavar="CURSOR", help="Show the lines after CURSOR, which an earlier call printed.")
@click.option("-t", "--timestamps", is_flag=True, help="Show the full time and the launch number of each line.")
@click.option("--raw", is_flag=True, help="Print the lines unchanged, without times.")
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
    form: OutputFormat,
    target: TargetOptions,
) -> None:
    """Show the last lines that AGENT wrote to stdout and stderr.

    Each line begins with its time. A JSON log record is shown as level, message and fields. With -f each line is
    printed once and in order, even if the API is unreachable for a while. A line that begins with `…` tells how many
    lines are missing at its place, and a line that begins with `—` how a launch ended. JSON records have a `kind`.
    """
    lines = LogLinePrinter(form, timestamps=timestamps, raw=raw)

    async def act(api: "AsyncMuster") -> AgentLogPage:
        agent_id = await whole_agent_id(api, agent)
        page = await api.agents.logs(agent_id, cursor=cursor, limit=limit)
        lines.write(page)
        if follow:
            await lines.follow(api, agent_id, page.next_cursor)
        return page

    if follow and form == "json":
        raise click.UsageError("-f needs -o table, jsonl, yaml or name: a JSON document would never end")
    page = call(target, act)
    if follow:
        return
    if form == "json":
        emit(page)
    elif not page.lines:
        say("The agent wrote no lines. `muster events TASK` shows an agent's work on a task.")
    if sum(line.kind == "output" for line in page.lines) == limit and cursor:
        say(f"More lines may follow: --cursor {page.next_cursor}")


MARKS = {"dropped": "…", "ended": "—"}
"""The first character of a record that the agent did not print. With --raw, such a record is a message on stderr."""


class LogLinePrinter:
    """Prints log lines in the format of `-o`; prints nothing for `-o json`, because `logs` prints the whole page."""

    def __init__(self, form: OutputFormat, *, timestamps: bool, raw: bool) -> None:
        self._form, self._timestamps, self._raw = form, timestamps, raw

    async def follow(self, api: "AsyncMuster", agent_id: str, cursor: str) -> None:
        """Print each line after the cursor as soon as the agent writes the line, until Ctrl-C."""
        async with aclosing(api.agents.follow_logs(agent_id, cursor)) as sent:
            async for one in sent:
                if one.event:
                    self.write(one.event)
                elif one.name == "reset":
                    say("The given position is not known any more. All stored lines follow.")

    def write(self, page: AgentLogPage) -> None:
        """Print the log lines of one page that the API returned."""
        for line in page.lines:
            match self._form:
                case "table":
                    self._write_text(line)
                case "name":
                    sys.stdout.write(f"{line.position}.{line.n}\n")
                case "yaml":
                    emit([msgspec.to_builtins(line)], "yaml")
                case "jsonl":
                    emit(line, "jsonl")
                case _:
                    return
        sys.stdout.flush()

    def _write_text(self, line: LogLine) -> None:
        mark = MARKS.get(line.kind)
        if self._raw and mark:
            sys.stdout.flush()
            say(f"{mark} {line.text}")
            return
        if self._raw:
            write_raw(f"{line.text}\n")
            return
        full = f"{line.at:%Y-%m-%dT%H:%M:%S.%f}Z #{line.launch}"
        prefix = full if self._timestamps else f"{line.at.astimezone():%H:%M:%S}"
        first, *more = [f"{mark} {printable(line.text)}"] if mark else readable_lines(line.text)
        sys.stdout.write(f"{prefix}  {first}".rstrip() + "\n")
        for text in more:
            sys.stdout.write(f"{'':<{len(prefix)}}  {text}\n")
