"""`muster agent list | get`."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, call, show_rows
from muster.cli.commands.watching import watch_option
from muster.cli.console.output import Form, Row, Shape, ago, describe, emit_row, one_of, output_option
from muster.cli.console.params import labels_option, page_options
from muster.common.clock import utc_now
from muster.common.contracts.agents import AgentState
from muster.common.contracts.packages import Mode

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient

STATES = click.Choice(get_args(AgentState))
IN_STATE = f"Only those in this state: {one_of(get_args(AgentState))}."
MODES = click.Choice(get_args(Mode))


def _cells(row: Row) -> Row:
    return {
        **row,
        "reason": None if row["state"] in ("running", "idle") else row["reason"],  # of an end that is past
        "state": row["state"] if _is_as_wished(row) else f"{row['state']} (wished: {row['desired']})",
        "seen": ago(datetime.fromisoformat(row["last_seen"]), utc_now()) if row["last_seen"] else None,
        "tasks": row["live_tasks"],
        "labels": " ".join(f"{name}={value}" for name, value in row["labels"].items()),
    }


def _is_as_wished(row: Row) -> bool:
    return (row["desired"] == "stopped") == (row["state"] == "stopped")


AGENTS = Shape(
    columns=("agent_id", "name", "package", "mode", "state", "restarts", "tasks", "seen", "labels", "reason"),
    spare=("tasks", "mode", "labels", "seen", "package", "agent_id"),
    rare=("labels", "reason"),
    name="agent_id",
    cells=_cells,
)


@click.command("list")
@click.option("--state", type=STATES, metavar="STATE", help=IN_STATE)
@click.option("--package", metavar="NAME", help="Only those of this package.")
@click.option("--mode", type=MODES, help="Only those of this mode.")
@click.option("-c", "--capability", metavar="NAME", help="Only those that can do this.")
@click.option("--name", "name_starts", metavar="BEGINNING", help="Only those whose name begins so.")
@labels_option("Only those with this label; several must all hold.")
@page_options
@watch_option
@output_option
@api_options
def list_(
    *,
    labels: dict[str, str],
    limit: int,
    cursor: str | None,
    watch: bool,
    form: Form,
    target: TargetOptions,
    **filters: str | None,
) -> None:
    """Show agents, newest first."""

    async def read(api: "ApiClient") -> RowPage:
        page = await api.fleet.list(labels=labels, limit=limit, cursor=cursor, **filters)
        return RowPage(msgspec.to_builtins(page.agents), page.next_cursor)

    narrowed = bool(labels or cursor or any(filters.values()))
    none = "No such agents." if narrowed else "No agents yet. `muster agent register NAME --package PACKAGE` makes one."
    show_rows(target, read, form, AGENTS, empty=none, watch=watch)


@click.command()
@click.argument("agent", metavar="AGENT")
@watch_option
@output_option
@api_options
def get(agent: str, *, watch: bool, form: Form, target: TargetOptions) -> None:
    """Show one agent with all that is known of it."""

    async def read(api: "ApiClient") -> RowPage:
        return RowPage([msgspec.to_builtins(await api.fleet.get(await whole_agent_id(api, agent)))])

    if watch:
        show_rows(target, read, form, AGENTS, watch=True)
    row: Any = call(target, read).rows[0]
    if form == "table":
        describe(row)
    else:
        emit_row(row, form, AGENTS)
