"""`muster agent find | packages | capabilities`."""

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.target import TargetOptions
from muster.cli.commands.agent.listing import MODES
from muster.cli.commands.call_api import RowPage, api_options, call, show_rows
from muster.cli.commands.watching import watch_option
from muster.cli.console.output import Exit, Form, Row, Shape, emit, emit_rows, output_option, say
from muster.cli.console.params import labels_option

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient
    from muster.common.contracts.agent_registry import Choice

CONSIDERED = Shape(
    columns=("agent_id", "name", "chosen", "why"),
    name="agent_id",
    cells=lambda row: {**row, "chosen": "yes" if row["chosen"] else "no"},
)


def _package(row: Row) -> Row:
    manifest: Row = row["manifest"] or {}
    return {
        **row,
        "version": manifest.get("version"),
        "modes": " ".join(manifest.get("modes", ())),
        "capabilities": " ".join(one["name"] for one in manifest.get("capabilities", ())),
        "usable": "yes" if row["usable"] else "no",
    }


PACKAGES = Shape(
    columns=("name", "version", "modes", "usable", "capabilities", "reason"),
    spare=("capabilities", "modes"),
    rare=("reason",),
    cells=_package,
)


def _capability(row: Row) -> Row:
    one = row["capability"]
    return {**row, **one, "packages": " ".join(row["packages"]), "configurable": "yes" if one["config"] else "no"}


CAPABILITIES = Shape(
    columns=("name", "agents", "packages", "configurable", "description"),
    spare=("configurable", "packages"),
    cells=_capability,
)


@click.command()
@click.option(
    "-c",
    "--capability",
    "capabilities",
    multiple=True,
    metavar="NAME",
    help="What it must be able to do; may be repeated.",
)
@click.option("--package", metavar="NAME", help="Of which package.")
@click.option("--mode", type=MODES, help="In which mode.")
@labels_option("With which label; several must all hold.")
@click.option("--available", is_flag=True, help="Only one that could take a task now.")
@output_option
@api_options
def find(
    *,
    capabilities: tuple[str, ...],
    labels: dict[str, str],
    available: bool,
    form: Form,
    target: TargetOptions,
    **given: str | None,
) -> None:
    """Say which agent can do this, and why each other one was not chosen.

    `-o name` prints the chosen agent's id alone. Exit code 3 if no agent can.
    """
    wanted: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    wanted |= {"labels": labels} if labels else {}

    async def act(api: "ApiClient") -> "Choice":
        return await api.fleet.find(capabilities=capabilities, available=available, **wanted)

    choice = call(target, act)
    match form:
        case "table":
            emit_rows(msgspec.to_builtins(choice.considered), form, CONSIDERED, empty="There is no agent to consider.")
        case "name":
            sys.stdout.write(f"{choice.agent.agent_id}\n" if choice.agent else "")
        case _:
            emit(choice, form)
    if choice.agent is None:
        say("No agent can do this now." if available else "No agent can do this.")
        sys.exit(Exit.NOT_FOUND)


@click.command()
@watch_option
@output_option
@api_options
def packages(*, watch: bool, form: Form, target: TargetOptions) -> None:
    """Show what agents can be made of. A package that cannot be used is there too, with the reason."""

    async def read(api: "ApiClient") -> RowPage:
        return RowPage(msgspec.to_builtins((await api.fleet.packages()).packages))

    none = "No packages were found. `muster agent new NAME` writes one."
    show_rows(target, read, form, PACKAGES, empty=none, watch=watch)


@click.command()
@output_option
@api_options
def capabilities(*, form: Form, target: TargetOptions) -> None:
    """Show what the agents can do, and how many can."""

    async def read(api: "ApiClient") -> RowPage:
        found: list[Row] = msgspec.to_builtins((await api.fleet.capabilities()).capabilities)
        return RowPage([{"name": row["capability"]["name"], **row} for row in found])

    show_rows(target, read, form, CAPABILITIES, empty="No agent has said what it can do.")
