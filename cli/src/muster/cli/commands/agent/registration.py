"""`muster agent new | register | update | delete`."""

import shlex
import sys
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from muster.cli.client.api_call_error import ApiCallError
from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.client.target_sources import quoted_path
from muster.cli.commands.agent.lifecycle import Goal, wait_for_goal
from muster.cli.commands.agent.listing import AGENTS, MODES
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.output import Exit, Form, emit_row, fail, output_option, say
from muster.cli.console.params import json_object, labels_option
from muster.cli.console.prompts import confirm, yes_option

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient
    from muster.common.contracts.agents import AgentView

CONFIG = "The configuration its capabilities want, as a JSON object."
NEW_CONFIG = "It replaces the whole of it, from the next launch on."
MOST_TRIES = 5
"""Each is lost only to somebody else's change in between."""


@click.command()
@click.argument("name")
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), default=".", help="Where; otherwise here.")
def new(name: str, *, into: Path) -> None:
    """Write a package called NAME: a manifest, an agent of some 15 lines, and a test that is green."""
    from muster.agent.scaffold import write
    from muster.common.faults import Conflict, Fault

    try:
        folder = write(name, into)
    except Fault as fault:
        fail(str(fault), Exit.CONFLICT if isinstance(fault, Conflict) else Exit.USAGE)
    except OSError as error:
        fail(f"the package cannot be written into {into}: {error.strerror}")
    sys.stdout.write(f"{folder}\n")
    if _is_built_in(name):
        say(
            f"Muster brings a package {name} along, and of two with one name the first found counts: "
            "yours will not be used. Choose another name."
        )
    python = shlex.quote(sys.executable)  # this one has the SDK that the package needs, wherever `python` leads
    say(
        f"Test it:   {python} -m pytest {quoted_path(folder)}\n"
        f"Find it:   muster up --packages {quoted_path(folder.parent)}   (or MUSTER_PACKAGES_DIRS, there)\n"
        f"Use it:    muster agent register NAME --package {name} --start --wait"
    )


@click.command()
@click.argument("name")
@click.option("--package", metavar="NAME", required=True, help="What it is made of (see `muster agent packages`).")
@click.option("--mode", type=MODES, help="A process of its own, or a sandbox for each task.")
@click.option("--config", metavar="JSON|@FILE|-", help=CONFIG)
@labels_option("A label; may be given several times.")
@click.option("--start", "at_once", is_flag=True, help="Start it too.")
@click.option("--wait", is_flag=True, help="With --start: until it runs; exit code 6 if it does not.")
@output_option
@api_options
def register(
    name: str,
    *,
    package: str,
    mode: str | None,
    config: str | None,
    labels: dict[str, str],
    at_once: bool,
    wait: bool,
    form: Form,
    target: TargetOptions,
) -> None:
    """Make an agent called NAME. It is stopped until it is started."""
    if wait and not at_once:
        raise click.UsageError("--wait needs --start")
    fields: dict[str, Any] = {"mode": mode} if mode else {}
    fields |= {"config": json_object(config, "--config")} if config else {}
    fields |= {"labels": labels} if labels else {}

    async def act(api: "ApiClient") -> "AgentView":
        view = await api.fleet.register(name, package, **fields)
        if at_once:
            launch, view = view.launch, await api.fleet.command(view.agent_id, "start")
            return await wait_for_goal(api, view, Goal("start", launch, view.updated_at)) if wait else view
        return view

    emit_row(msgspec.to_builtins(call(target, act)), form, AGENTS)


@click.command()
@click.argument("agent", metavar="AGENT")
@click.option("--name", metavar="NAME", help="Another name.")
@labels_option("Set a label; the others stay.")
@click.option("--unlabel", multiple=True, metavar="NAME", help="Take a label away.")
@click.option("--config", metavar="JSON|@FILE|-", help=f"{CONFIG} {NEW_CONFIG}")
@output_option
@api_options
def update(
    agent: str,
    *,
    name: str | None,
    labels: dict[str, str],
    unlabel: tuple[str, ...],
    config: str | None,
    form: Form,
    target: TargetOptions,
) -> None:
    """Change what is given. Nobody's change in between is lost: then it is made again from what is there."""
    fields: dict[str, Any] = {"name": name} if name else {}
    fields |= {"config": json_object(config, "--config")} if config else {}
    if not (fields or labels or unlabel):
        raise click.UsageError("nothing to change: give --name, --label, --unlabel or --config")

    async def act(api: "ApiClient") -> "AgentView":
        agent_id, tries = await whole_agent_id(api, agent), 0
        while True:
            tries += 1
            seen = await api.fleet.get(agent_id)
            kept = {label: value for label, value in seen.labels.items() if label not in unlabel} | labels
            try:
                return await api.fleet.update(seen, **fields, **({"labels": kept} if labels or unlabel else {}))
            except ApiCallError as refusal:
                if tries == MOST_TRIES or not _was_outrun(refusal):
                    raise

    view = call(target, act)
    emit_row(msgspec.to_builtins(view), form, AGENTS)
    if config and view.pid is not None:
        say(f"{view.name} has its old configuration until its next launch: `muster agent restart {view.name}`.")


@click.command()
@click.argument("agent", metavar="AGENT")
@yes_option
@api_options
def delete(agent: str, *, yes: bool, target: TargetOptions) -> None:
    """Forget a stopped agent: it can not be started again."""

    async def look(api: "ApiClient") -> "AgentView":
        return await api.fleet.get(await whole_agent_id(api, agent))

    seen = call(target, look)
    confirm(f"Delete agent {seen.name} ({seen.agent_id})?", yes=yes)
    call(target, lambda api: api.fleet.delete(seen))
    say(f"{seen.name} ({seen.agent_id}) is deleted.")


def _is_built_in(name: str) -> bool:
    return any((Path(place) / name).is_dir() for place in import_module("muster.agents").__path__)


def _was_outrun(refusal: ApiCallError) -> bool:
    return refusal.problem is not None and refusal.problem.status == HTTPStatus.PRECONDITION_FAILED
