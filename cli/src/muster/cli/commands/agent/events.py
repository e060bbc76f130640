"""`muster agent events`: what happened to an agent."""

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
"""Always beside the word."""
_TOLD = ("reason", "exit_code", "launch", "pid", "cites")


@click.command()
@click.argument("agent", metavar="AGENT")
@click.option("--follow/--no-follow", default=None, help="Wait for what comes, until Ctrl-C; on a terminal, it does.")
@click.option("--after", metavar="POSITION", help="Only what came after this position (a field of each JSON line).")
@output_option
@api_options
def events(agent: str, *, follow: bool | None, after: str | None, form: Form, target: TargetOptions) -> None:
    """Show each change of AGENT. A cut connection is taken up again where it was."""
    if follow and form == "json":
        raise click.UsageError("--follow goes with -o table, jsonl, yaml or name: a JSON text has an end")
    stays = (form != "json" and sys.stdout.isatty()) if follow is None else follow

    async def show(api: "ApiClient") -> None:
        agent_id = await whole_agent_id(api, agent)
        await write_feed(api.fleet.events(agent_id, after, follow=stays), form, _line)

    call(target, show)


def _itself(told: AgentChanged) -> str:
    """What a change cites that rests on nothing but its own transaction."""
    return f"agents#{told.agent_id}/{told.version}"


def _line(sent: "ServerSentEvent") -> str | None:
    if sent.name != "agent":
        return None
    told = decode(sent.body, AgentChanged)
    body = msgspec.json.decode(told.body, type=dict[str, object])
    given = (name for name in _TOLD if body.get(name) and body[name] != _itself(told))
    facts = "  ".join(one_line(f"{name}={body[name]}") for name in given)
    words = f"{told.at.astimezone():%H:%M:%S}  v{told.version:<4}  {told.kind:<12}  {told.state:<12}  {facts}"
    words = printable(words).rstrip()
    if sys.stdout.isatty():
        words = shortened(words, terminal_columns())
    colour = COLOURS.get(told.state)
    return click.style(words, fg=colour) if colour and coloured(sys.stdout) else words
