"""Implements `muster guardian findings | interventions`."""

from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, row_options, show_rows
from muster.cli.console.output import Form, Row, Shape

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient

FINDINGS = Shape(
    columns=("finding_id", "detector", "sandbox_id", "epoch", "at", "seqs", "summary"),
    spare=("epoch", "sandbox_id", "at", "seqs"),
    name="finding_id",
    cells=lambda row: {**row, "at": row["at"][:19].replace("T", " ")},
)
INTERVENTIONS = Shape(
    columns=("message_id", "outcome", "stages", "text", "sandbox_id", "epoch", "sender"),
    spare=("epoch", "sandbox_id", "sender"),
    name="message_id",
    cells=lambda row: {**row, "stages": " → ".join(receipt["stage"] for receipt in row["receipts"])},
)


@click.group()
def guardian() -> None:
    """Show the guardian's findings and interventions."""


@guardian.command()
@click.argument("task", metavar="TASK")
@row_options
def findings(task: str, *, watch: bool, form: Form, target: TargetOptions) -> None:
    """Show what the guardian found wrong in TASK. Each finding names the events (seqs) that show it."""

    async def read(api: "ApiClient") -> RowPage:
        rows: list[Row] = msgspec.to_builtins((await api.report(await whole_task_id(api, task))).findings)
        return RowPage(rows)

    none = "The guardian has no findings in this task."
    show_rows(target, read, form, FINDINGS, empty=none, watch=watch)


@guardian.command()
@click.argument("task", metavar="TASK")
@row_options
def interventions(task: str, *, watch: bool, form: Form, target: TargetOptions) -> None:
    """Show the steering messages to TASK. Each message is shown with its recorded stages and its outcome."""

    async def read(api: "ApiClient") -> RowPage:
        rows: list[Row] = msgspec.to_builtins((await api.report(await whole_task_id(api, task))).interventions)
        return RowPage(rows)

    show_rows(target, read, form, INTERVENTIONS, empty="No steering message was sent to this task.", watch=watch)
