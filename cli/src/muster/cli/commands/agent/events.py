"""Implements `muster agent events`, which prints the state changes of an agent."""

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.commands.feed_output import write_feed
from muster.cli.console.event_line import coloured
from muster.cli.console.output import Form, output_option
from muster.cli.console.table import shortened, terminal_columns
from muster.common.contract import decode
from muster.common.contracts.agents import AgentChanged
from muster.common.terminal import one_line, printable

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient
    from muster.cli.client.sse import ServerSentEvent

COLOURS = {"running": "green", "idle": "green", "error": "red", "quarantined": "red", "unresponsive": "yellow"}
"""Colour of a line by the agent's state. The line also contains the state as a word."""
_SHOWN_FIELDS = ("reason", "exit_code", "launch", "pid", "cites")
"""Fields of a change that its line shows if they are set."""


@click.command()
@click.argument("agent", metavar="AGENT")
@click.option("--follow/--no-follow", default=None, help="Wait for new events until Ctrl-C (default on a terminal).")
@click.option("--after", metavar="POSITION", help="Show only events after POSITION, a field of each JSON line.")
@output_option
@api_options
def events(agent: str, *, follow: bool | None, after: str | None, form: Form, target: TargetOptions) -> None:
    """Show each state change of AGENT. A cut connection is resumed without loss or repetition."""
    if follow and form == "json":
        raise click.UsageError("--follow needs -o table, jsonl, yaml or name: a JSON document would never end")
    stays = (form != "json" and sys.stdout.isatty()) if follow is None else follow

    async def show(api: "ApiClient") -> None:
        agent_id = await whole_agent_id(api, agent)
        await write_feed(api.fleet.events(agent_id, after, follow=stays), form, _line)

    call(target, show)


def _own_row(change: AgentChanged) -> str:
    """Return the citation of the change's own database row, which adds nothing to the line."""
    return f"agents#{change.agent_id}/{change.version}"


def _line(sent: "ServerSentEvent") -> str | None:
    """Format a state change as one line: time, version, kind, state and the fields that are set."""
    if sent.name != "agent":
        return None
    change = decode(sent.body, AgentChanged)
    body = msgspec.json.decode(change.body, type=dict[str, object])
    names = (name for name in _SHOWN_FIELDS if body.get(name) and body[name] != _own_row(change))
    fields = "  ".join(one_line(f"{name}={body[name]}") for name in names)
    text = f"{change.at.astimezone():%H:%M:%S}  v{change.version:<4}  {change.kind:<12}  {change.state:<12}  {fields}"
    text = printable(text).rstrip()
    if sys.stdout.isatty():
        text = shortened(text, terminal_columns())
    colour = COLOURS.get(change.state)
    return click.style(text, fg=colour) if colour and coloured(sys.stdout) else text
