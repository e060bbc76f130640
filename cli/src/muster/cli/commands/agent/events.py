"""Implements `muster agent events`, which prints the state changes of an agent, and its late answers to messages."""

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.commands.feed_output import write_feed
from muster.cli.console.event_line import coloured
from muster.cli.console.output import OutputFormat, output_option
from muster.cli.console.table import terminal_columns
from muster.cli.console.wrapping import wrapped_line
from muster.common.contracts.agent_messages import message_outcome
from muster.common.contracts.agents import AgentChanged
from muster.common.terminal import one_line, printable

if TYPE_CHECKING:
    from muster.client import AsyncMuster, FeedItem

COLOURS = {"running": "green", "idle": "green", "error": "red", "quarantined": "red", "unresponsive": "yellow"}
"""Colour of a printed line for each agent state. The line also contains the state as a word."""
_SHOWN_FIELDS = ("reason", "exit_code", "launch", "pid", "cites")
"""Fields of a change that its line shows if they are set."""


@click.command()
@click.argument("agent", metavar="AGENT")
@click.option("--follow/--no-follow", default=None, help="Wait for new events until Ctrl-C (default on a terminal).")
@click.option("--after", metavar="POSITION", help="Show only events after POSITION, a field of each JSON line.")
@output_option
@api_options
def events(agent: str, *, follow: bool | None, after: str | None, form: OutputFormat, target: TargetOptions) -> None:
    """Show each state change of AGENT, and the outcome of each message that was not answered within 1.5 s.

    Each change is shown once, even if the connection breaks and is restored.
    """
    if follow and form == "json":
        raise click.UsageError("--follow needs -o table, jsonl, yaml or name: a JSON document would never end")
    stays = (form != "json" and sys.stdout.isatty()) if follow is None else follow

    async def show(api: "AsyncMuster") -> None:
        agent_id = await whole_agent_id(api, agent)
        await write_feed(api.agents.events(agent_id, after, follow=stays), form, _line)

    call(target, show)


def _own_row(change: AgentChanged) -> str:
    """Return the reference `agents#ID/VERSION` to the database row of a state change.

    A printed line does not show this reference, because the line contains the version already.
    """
    return f"agents#{change.agent_id}/{change.version}"


def _line(sent: "FeedItem[AgentChanged]") -> str | None:
    """Format a state change as one line: time, version, kind, state and the fields that are set."""
    change = sent.event
    if change is None:
        return None
    outcome = message_outcome(change)
    if outcome is None:
        body = msgspec.json.decode(change.body, type=dict[str, object])
        names = (name for name in _SHOWN_FIELDS if body.get(name) and body[name] != _own_row(change))
        fields = "  ".join(one_line(f"{name}={body[name]}") for name in names)
    else:
        said = outcome.error.detail if outcome.error else outcome.answer
        fields = f"{outcome.message_id}  {one_line(said or '')}"
    text = f"{change.at.astimezone():%H:%M:%S}  v{change.version:<4}  {change.kind:<16}  {change.state:<12}  {fields}"
    # The fields contain the reason of the change, so a long line is wrapped and never cut.
    columns = terminal_columns() if sys.stdout.isatty() else None
    text = "\n".join(wrapped_line(printable(text).rstrip(), " " * 10, columns))
    colour = COLOURS.get(change.state)
    return click.style(text, fg=colour) if colour and coloured(sys.stdout) else text
