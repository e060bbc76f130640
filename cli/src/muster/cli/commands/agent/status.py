"""Implements `muster agent status | metrics`, which show the state and the metrics of an agent."""

from datetime import datetime
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, call, row_options, show_rows
from muster.cli.console.output import OutputFormat, Row, TableLayout, ago, describe, emit, emit_row, emit_rows, when
from muster.common.clock import utc_now

if TYPE_CHECKING:
    from muster.client import AsyncMuster

ASKED = {
    "answered": "the agent answered just now",
    "no_answer": "the agent did not answer just now",
    "not_running": "the agent was not asked, because it has no process",
}
"""Text for each value of the field `asked`."""


def _cells(row: Row) -> Row:
    seen = row["last_seen"]
    return {**row, "seen": ago(datetime.fromisoformat(seen), utc_now()) if seen else None}


STATUS = TableLayout(
    columns=("agent_id", "state", "desired", "pid", "seen", "asked", "cites", "exit_code", "reason"),
    dropped_first=("pid", "asked", "seen", "desired"),
    hidden_if_empty=("pid", "exit_code", "reason"),
    name="agent_id",
    cells=_cells,
)


def _measured(row: Row) -> Row:
    at = row["as_of"]
    return {
        **row,
        "value": f"{round(row['value'], 3):,.15g}",
        "as_of": ago(datetime.fromisoformat(at), utc_now()) if at else "now",
    }


METRICS = TableLayout(columns=("metric", "value", "as_of", "by"), name="metric", cells=_measured)


@click.command()
@click.argument("agent", metavar="AGENT")
@row_options
def status(agent: str, *, watch: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show the state of AGENT and the event that shows this state. A running agent is also asked for its status."""

    async def read(api: "AsyncMuster") -> RowPage:
        return RowPage([msgspec.to_builtins(await api.agents.status(await whole_agent_id(api, agent)))])

    if watch:
        show_rows(target, read, form, STATUS, watch=True)
    row = call(target, read).rows[0]
    if form == "table":
        _describe(row)
    else:
        emit_row(row, form, STATUS)


@click.command()
@click.argument("agent", metavar="AGENT")
@row_options
def metrics(agent: str, *, watch: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show the metrics that AGENT reported last, and the metrics that Muster itself counts."""

    async def get(api: "AsyncMuster") -> Row:
        return msgspec.to_builtins(await api.agents.metrics(await whole_agent_id(api, agent)))

    async def read(api: "AsyncMuster") -> RowPage:
        return RowPage(numbers(await get(api)))

    if watch:
        show_rows(target, read, form, METRICS, watch=True)
    found = call(target, get)
    if form in ("json", "yaml"):
        emit(found, form)
    else:
        emit_rows(numbers(found), form, METRICS)


def _describe(row: Row) -> None:
    describe(
        {
            "agent_id": row["agent_id"],
            "state": f"{row['state']}, since {when(row['state_since'])}",
            "shown by": row["cites"],
            "desired": row["desired"],
            "reason": row["reason"],
            "pid": row["pid"],
            "exit code": row["exit_code"],
            "last seen": when(row["last_seen"]) if row["last_seen"] else "never",
            "asked": ASKED[row["asked"]],
            "health": row["health"],
        }
    )


def numbers(found: Row) -> list[Row]:
    """Return one row for each metric; if the agent and Muster both have a value for a metric, use Muster's value."""
    counted, reported = found["counted"], found["metrics"]
    rows: list[Row] = [
        {"metric": name, "value": value, "as_of": found["at"], "by": "the agent"}
        for name, value in reported.items()
        if name not in counted
    ]
    rows += [{"metric": name, "value": value, "as_of": None, "by": "Muster"} for name, value in counted.items()]
    return rows
