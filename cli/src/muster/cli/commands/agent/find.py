"""Implements `muster agent find`, which asks the API for an agent that meets requirements."""

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.target import TargetOptions
from muster.cli.commands.agent.listing import MODES
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.output import Exit, OutputFormat, TableLayout, emit, emit_rows, output_option, say
from muster.cli.console.params import labels_option
from muster.common.contracts.agent_bodies import AgentSearch
from muster.common.contracts.packages import Mode

if TYPE_CHECKING:
    from muster.client import AsyncMuster
    from muster.common.contracts.agent_registry import Choice

CONSIDERED = TableLayout(
    columns=("agent_id", "name", "chosen", "why"),
    name="agent_id",
    cells=lambda row: {**row, "chosen": "yes" if row["chosen"] else "no"},
)


@click.command()
@click.option(
    "-c",
    "--capability",
    "capabilities",
    multiple=True,
    metavar="NAME",
    help="Require this capability. May be repeated.",
)
@click.option("--package", metavar="NAME", help="Require this package.")
@click.option("--mode", type=MODES, help="Require this mode.")
@labels_option("Require this label. May be repeated.")
@click.option("--available", is_flag=True, help="Require that the agent can take a task now.")
@output_option
@api_options
def find(
    *,
    capabilities: tuple[str, ...],
    package: str | None,
    mode: Mode | None,
    labels: dict[str, str],
    available: bool,
    form: OutputFormat,
    target: TargetOptions,
) -> None:
    """Find an agent that meets all requirements, and show why each other agent was not chosen.

    `-o name` prints only the id of the chosen agent. The exit code is 3 if no agent meets the requirements.
    """
    wanted = AgentSearch(
        capabilities=list(capabilities), package=package, mode=mode, labels=labels, available=available
    )

    async def act(api: "AsyncMuster") -> "Choice":
        return await api.agents.find(wanted)

    choice = call(target, act)
    match form:
        case "table":
            emit_rows(msgspec.to_builtins(choice.considered), form, CONSIDERED, empty="No agents are registered.")
        case "name":
            sys.stdout.write(f"{choice.agent.agent_id}\n" if choice.agent else "")
        case _:
            emit(choice, form)
    if choice.agent is None:
        say("No agent meets these requirements now." if available else "No agent meets these requirements.")
        sys.exit(Exit.NOT_FOUND)
