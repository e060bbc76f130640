"""Implements `muster agent packages | capabilities`, which show agent packages and agents' capabilities."""

from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, row_options, show_rows
from muster.cli.console.output import OutputFormat, Row, TableLayout, output_option

if TYPE_CHECKING:
    from muster.client import AsyncMuster


def _package(row: Row) -> Row:
    manifest: Row = row["manifest"] or {}
    return {
        **row,
        "version": manifest.get("version"),
        "modes": " ".join(manifest.get("modes", ())),
        "capabilities": " ".join(one["name"] for one in manifest.get("capabilities", ())),
        "usable": "yes" if row["usable"] else "no",
    }


PACKAGES = TableLayout(
    columns=("name", "version", "modes", "usable", "capabilities", "reason"),
    dropped_first=("capabilities", "modes"),
    hidden_if_empty=("reason",),
    cells=_package,
)


def _capability(row: Row) -> Row:
    one = row["capability"]
    return {**row, **one, "packages": " ".join(row["packages"]), "configurable": "yes" if one["config"] else "no"}


CAPABILITIES = TableLayout(
    columns=("name", "agents", "packages", "configurable", "description"),
    dropped_first=("configurable", "packages"),
    cells=_capability,
)


@click.command()
@row_options
def packages(*, watch: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show the packages that agents can be made from, and the reason why a package is unusable."""

    async def read(api: "AsyncMuster") -> RowPage:
        return RowPage(msgspec.to_builtins((await api.packages.list()).packages))

    none = "No packages were found. `muster agent new NAME` creates one."
    show_rows(target, read, form, PACKAGES, empty=none, watch=watch)


@click.command()
@output_option
@api_options
def capabilities(*, form: OutputFormat, target: TargetOptions) -> None:
    """Show the capabilities of the registered agents, and how many agents have each capability."""

    async def read(api: "AsyncMuster") -> RowPage:
        found: list[Row] = msgspec.to_builtins((await api.capabilities.list()).capabilities)
        return RowPage([{"name": row["capability"]["name"], **row} for row in found])

    show_rows(target, read, form, CAPABILITIES, empty="No registered agent has a capability.")
