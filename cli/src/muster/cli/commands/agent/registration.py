"""Implements `muster agent new | register | update | delete`, which create, change and delete agents."""

import shlex
import sys
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.client.target_sources import quoted_path
from muster.cli.commands.agent.lifecycle import Goal, wait_for_goal
from muster.cli.commands.agent.listing import AGENTS, MODES
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.output import Exit, OutputFormat, emit_row, fail, output_option, say
from muster.cli.console.params import labels_option, parse_json_object
from muster.cli.console.prompts import confirm, yes_option
from muster.client.errors import ApiCallError
from muster.common.contracts.agent_bodies import AgentChange, NewAgent

if TYPE_CHECKING:
    from muster.client import AsyncMuster
    from muster.common.contracts.agents import AgentView

CONFIG_HELP = "Configure the agent's capabilities with this JSON object."
NEW_CONFIG_HELP = "Replace the whole configuration by this JSON object, from the next launch on."
CAPABILITY = ("-c", "--capability", "capabilities")
REPEATABLE: dict[str, Any] = {"multiple": True, "metavar": "NAME"}
MAX_TRIES = 5
"""Tries of an update. A try fails only if another client changed the agent since the agent was read."""


@click.command()
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    default=".",
    help="Write the package into DIR instead of the current directory.",
)
def new(name: str, *, into: Path) -> None:
    """Create an agent package called NAME: a manifest, an agent of about 15 lines, and a passing test."""
    from muster.agent.scaffold import write
    from muster.common.faults import Conflict, Fault

    try:
        folder = write(name, into)
    except Fault as fault:
        fail(str(fault), Exit.CONFLICT if isinstance(fault, Conflict) else Exit.USAGE)
    except OSError as error:
        fail(f"the package cannot be written into {into}: {error.strerror}. Choose another directory with --into.")
    sys.stdout.write(f"{folder}\n")
    if _is_built_in(name):
        say(
            f"Muster has a built-in package called {name}, which is found first: the new package will not be used. "
            "Choose another name."
        )
    # The package needs the agent SDK. `sys.executable` has the SDK; another `python` on the PATH may not have it.
    python = shlex.quote(sys.executable)
    say(
        f"Test the package:    {python} -m pytest {quoted_path(folder)}\n"
        f"Offer it to a stack: muster up --packages {quoted_path(folder.parent)}   (or set MUSTER_PACKAGES_DIRS)\n"
        f"Run an agent of it:  muster agent register NAME --package {name} --start --wait"
    )


@click.command()
@click.argument("name")
@click.option("--package", metavar="NAME", required=True, help="Use this package (see `muster agent packages`).")
@click.option("--mode", type=MODES, help="Run the agent as one process, or in a sandbox for each task.")
@click.option("--config", metavar="JSON|@FILE|-", help=CONFIG_HELP)
@labels_option("Add a label. May be repeated.")
@click.option("--phase", "phase_id", metavar="ID", help="Store the phase of your process that the agent works in.")
@click.option(*CAPABILITY, **REPEATABLE, help="Add a capability to those of the package. May be repeated.")
@click.option("--start", "at_once", is_flag=True, help="Start the agent too.")
@click.option("--wait", is_flag=True, help="Wait, with --start, until the agent runs; exit with 6 if the agent fails.")
@output_option
@api_options
def register(
    name: str,
    *,
    package: str,
    mode: str | None,
    config: str | None,
    labels: dict[str, str],
    phase_id: str | None,
    capabilities: tuple[str, ...],
    at_once: bool,
    wait: bool,
    form: OutputFormat,
    target: TargetOptions,
) -> None:
    """Register an agent called NAME. The agent stays stopped until `muster agent start` or --start starts it."""
    if wait and not at_once:
        raise click.UsageError("--wait needs --start: give both, or omit --wait")
    fields: dict[str, Any] = {"mode": mode} if mode else {}
    fields |= {"labels": labels} if labels else {}
    fields |= _common_fields(config, phase_id, capabilities)

    async def act(api: "AsyncMuster") -> "AgentView":
        view = await api.agents.register(NewAgent(name=name, package=package, **fields))
        if at_once:
            launch, view = view.launch, await api.agents.start(view.agent_id)
            return await wait_for_goal(api, view, Goal("start", launch, view.updated_at)) if wait else view
        return view

    emit_row(msgspec.to_builtins(call(target, act)), form, AGENTS)


@click.command()
@click.argument("agent", metavar="AGENT")
@click.option("--name", metavar="NAME", help="Rename the agent to NAME.")
@labels_option("Set a label; other labels stay. May be repeated.")
@click.option("--unlabel", multiple=True, metavar="NAME", help="Remove a label. May be repeated.")
@click.option("--config", metavar="JSON|@FILE|-", help=NEW_CONFIG_HELP)
@click.option("--phase", "phase_id", metavar="ID", help="Store another phase that the agent works in.")
@click.option(*CAPABILITY, **REPEATABLE, help="Replace the agent's own capabilities by this one. May be repeated.")
@output_option
@api_options
def update(
    agent: str,
    *,
    name: str | None,
    labels: dict[str, str],
    unlabel: tuple[str, ...],
    config: str | None,
    phase_id: str | None,
    capabilities: tuple[str, ...],
    form: OutputFormat,
    target: TargetOptions,
) -> None:
    """Change the name, labels, configuration, phase or own capabilities of AGENT.

    If another client changes AGENT at the same time, the command reads AGENT again and repeats the update.
    """
    fields: dict[str, Any] = {"name": name} if name else {}
    fields |= _common_fields(config, phase_id, capabilities)
    if not (fields or labels or unlabel):
        raise click.UsageError("nothing to change: give --name, --label, --unlabel, --config, --phase or --capability")

    async def act(api: "AsyncMuster") -> "AgentView":
        agent_id, tries = await whole_agent_id(api, agent), 0
        while True:
            tries += 1
            seen = await api.agents.get(agent_id)
            all_labels = {label: value for label, value in seen.labels.items() if label not in unlabel} | labels
            try:
                relabelled: dict[str, Any] = {"labels": all_labels} if labels or unlabel else {}
                return await api.agents.update(seen, AgentChange(**fields, **relabelled))
            except ApiCallError as error:
                if tries == MAX_TRIES or not _is_version_conflict(error):
                    raise

    view = call(target, act)
    emit_row(msgspec.to_builtins(view), form, AGENTS)
    if config and view.pid is not None:
        say(f"{view.name} uses its old configuration until its next launch: `muster agent restart {view.name}`.")


@click.command()
@click.argument("agent", metavar="AGENT")
@yes_option
@api_options
def delete(agent: str, *, yes: bool, target: TargetOptions) -> None:
    """Delete the stopped agent AGENT. A deleted agent cannot be started again."""

    async def look(api: "AsyncMuster") -> "AgentView":
        return await api.agents.get(await whole_agent_id(api, agent))

    seen = call(target, look)
    confirm(f"Delete agent {seen.name} ({seen.agent_id})?", yes=yes)
    call(target, lambda api: api.agents.delete(seen))
    say(f"{seen.name} ({seen.agent_id}) is deleted.")


def _common_fields(config: str | None, phase_id: str | None, capabilities: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of `NewAgent` or `AgentChange` that --config, --phase and --capability set."""
    fields: dict[str, Any] = {"config": parse_json_object(config, "--config")} if config else {}
    fields |= {"phase_id": phase_id} if phase_id else {}
    return fields | ({"capabilities": list(capabilities)} if capabilities else {})


def _is_built_in(name: str) -> bool:
    return any((Path(place) / name).is_dir() for place in import_module("muster.agents").__path__)


def _is_version_conflict(error: ApiCallError) -> bool:
    return error.status == HTTPStatus.PRECONDITION_FAILED
