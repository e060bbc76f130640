"""Implements `muster guardian findings | interventions`, which show the guardian's work on a task."""

from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, row_options, show_rows
from muster.cli.console.command_group import CommandGroup
from muster.cli.console.output import OutputFormat, Row, TableLayout

if TYPE_CHECKING:
    from muster.client import AsyncMuster

FINDINGS = TableLayout(
    columns=("finding_id", "detector", "sandbox_id", "epoch", "at", "seqs", "summary"),
    dropped_first=("epoch", "sandbox_id", "at", "seqs"),
    name="finding_id",
    cells=lambda row: {**row, "at": row["at"][:19].replace("T", " ")},
)
INTERVENTIONS = TableLayout(
    columns=("message_id", "outcome", "stages", "text", "sandbox_id", "epoch", "sender"),
    dropped_first=("epoch", "sandbox_id", "sender"),
    name="message_id",
    cells=lambda row: {**row, "stages": " → ".join(receipt["stage"] for receipt in row["receipts"])},
)


@click.group(cls=CommandGroup)
def guardian() -> None:
    """Show the guardian's findings and interventions."""


@guardian.command()
@click.argument("task", metavar="TASK")
@row_options
def findings(task: str, *, watch: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show the guardian's findings in TASK. Each finding lists the events that show the problem."""

    async def read(api: "AsyncMuster") -> RowPage:
        rows: list[Row] = msgspec.to_builtins((await api.tasks.report(await whole_task_id(api, task))).findings)
        return RowPage(rows)

    none = "The guardian has no findings in this task."
    show_rows(target, read, form, FINDINGS, empty=none, watch=watch)


@guardian.command()
@click.argument("task", metavar="TASK")
@row_options
def interventions(task: str, *, watch: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show the steering messages to TASK. Each message is shown with its recorded stages and its outcome."""

    async def read(api: "AsyncMuster") -> RowPage:
        rows: list[Row] = msgspec.to_builtins((await api.tasks.report(await whole_task_id(api, task))).interventions)
        return RowPage(rows)

    show_rows(target, read, form, INTERVENTIONS, empty="No steering message was sent to this task.", watch=watch)
