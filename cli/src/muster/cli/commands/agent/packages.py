"""Implements `muster agent packages | capabilities`."""

from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, row_options, show_rows
from muster.cli.console.output import Form, Row, Shape, output_option

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient


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
@row_options
def packages(*, watch: bool, form: Form, target: TargetOptions) -> None:
    """Show the packages that agents can be made from. An unusable package is shown with the reason."""

    async def read(api: "ApiClient") -> RowPage:
        return RowPage(msgspec.to_builtins((await api.fleet.packages()).packages))

    none = "No packages were found. `muster agent new NAME` creates one."
    show_rows(target, read, form, PACKAGES, empty=none, watch=watch)


@click.command()
@output_option
@api_options
def capabilities(*, form: Form, target: TargetOptions) -> None:
    """Show the capabilities of the registered agents, and how many agents have each."""

    async def read(api: "ApiClient") -> RowPage:
        found: list[Row] = msgspec.to_builtins((await api.fleet.capabilities()).capabilities)
        return RowPage([{"name": row["capability"]["name"], **row} for row in found])

    show_rows(target, read, form, CAPABILITIES, empty="No registered agent has a capability.")
