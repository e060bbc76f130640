"""Implements `muster agent list | get`, which show agents."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack, get_args

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, call, list_options, row_options, show_rows
from muster.cli.console.output import OutputFormat, Row, TableLayout, ago, describe, emit_row, one_of
from muster.cli.console.params import labels_option
from muster.client.filters import AgentFilters
from muster.common.clock import utc_now
from muster.common.contracts.agents import AgentState
from muster.common.contracts.packages import Mode

if TYPE_CHECKING:
    from muster.client import AsyncMuster

STATES = click.Choice(get_args(AgentState))
STATE_HELP = f"Show only agents in this state: {one_of(get_args(AgentState))}."
MODES = click.Choice(get_args(Mode))


def _cells(row: Row) -> Row:
    return {
        **row,
        # While an agent runs, `reason` still explains the end of the previous process. Next to the state `running`
        # this text would look like an error, so it is not shown.
        "reason": None if row["state"] in ("running", "idle") else row["reason"],
        "state": row["state"] if _is_as_desired(row) else f"{row['state']} (desired: {row['desired']})",
        "seen": ago(datetime.fromisoformat(row["last_seen"]), utc_now()) if row["last_seen"] else None,
        "tasks": row["live_tasks"],
        "labels": " ".join(f"{name}={value}" for name, value in row["labels"].items()),
    }


def _is_as_desired(row: Row) -> bool:
    return (row["desired"] == "stopped") == (row["state"] == "stopped")


AGENTS = TableLayout(
    columns=("agent_id", "name", "package", "mode", "state", "restarts", "tasks", "seen", "labels", "reason"),
    dropped_first=("tasks", "mode", "labels", "seen", "package", "agent_id"),
    hidden_if_empty=("labels", "reason"),
    name="agent_id",
    cells=_cells,
)


@click.command("list")
@click.option("--state", type=STATES, metavar="STATE", help=STATE_HELP)
@click.option("--package", metavar="NAME", help="Show only agents of this package.")
@click.option("--mode", type=MODES, help="Show only agents of this mode.")
@click.option("-c", "--capability", metavar="NAME", help="Show only agents with this capability.")
@click.option("--name", "name_starts", metavar="BEGINNING", help="Show only agents whose name begins with this text.")
@labels_option("Show only agents with this label; if repeated, with all of them.")
@list_options
def list_(
    *,
    limit: int,
    cursor: str | None,
    watch: bool,
    form: OutputFormat,
    target: TargetOptions,
    **filters: Unpack[AgentFilters],
) -> None:
    """Show agents, newest first."""

    async def read(api: "AsyncMuster") -> RowPage:
        page = await api.agents.list(limit=limit, cursor=cursor, **filters)
        return RowPage(msgspec.to_builtins(page.agents), page.next_cursor)

    filtered = bool(cursor or any(filters.values()))
    register = "`muster agent register NAME --package PACKAGE` registers one."
    none = "No agents match." if filtered else f"No agents yet. {register}"
    show_rows(target, read, form, AGENTS, empty=none, watch=watch)


@click.command()
@click.argument("agent", metavar="AGENT")
@row_options
def get(agent: str, *, watch: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show all fields of one agent."""

    async def read(api: "AsyncMuster") -> RowPage:
        return RowPage([msgspec.to_builtins(await api.agents.get(await whole_agent_id(api, agent)))])

    if watch:
        show_rows(target, read, form, AGENTS, watch=True)
    row: Any = call(target, read).rows[0]
    if form == "table":
        describe(row)
    else:
        emit_row(row, form, AGENTS)
