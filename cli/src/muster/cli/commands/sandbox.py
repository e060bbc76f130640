"""Implements `muster sandbox list | get | verify`, which show sandboxes and verify their logs."""

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_sandbox_id, whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, call, row_options, show_rows
from muster.cli.console.output import Exit, OutputFormat, Row, TableLayout, describe, emit_row, output_option, say
from muster.cli.console.table import with_isolation
from muster.common.terminal import one_line

if TYPE_CHECKING:
    from muster.client import AsyncMuster

SANDBOXES = TableLayout(
    columns=("sandbox_id", "task_id", "epoch", "state", "provider", "isolation", "package", "next_seq", "exit_code"),
    dropped_first=("provider", "isolation", "package", "next_seq", "exit_code", "epoch"),
    hidden_if_empty=("next_seq",),
    name="sandbox_id",
    cells=with_isolation,
)
VERDICTS = TableLayout(
    columns=("sandbox_id", "ok", "frames", "events", "epoch", "ended"),
    name="sandbox_id",
    cells=lambda row: {**row, "ok": "yes" if row["ok"] else "no"},
)


@click.group()
def sandbox() -> None:
    """Show sandboxes and verify their logs."""


@sandbox.command("list")
@click.option("--task", metavar="TASK", help="Show only the sandboxes of TASK.")
@row_options
def list_(*, task: str | None, watch: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show sandboxes, newest first."""

    async def read(api: "AsyncMuster") -> RowPage:
        page = await api.sandboxes.list(None if task is None else await whole_task_id(api, task))
        return RowPage(msgspec.to_builtins(page.sandboxes))

    none = "No sandboxes yet. Each attempt at a task gets one." if task is None else "This task has no sandboxes."
    show_rows(target, read, form, SANDBOXES, empty=none, watch=watch)


@sandbox.command()
@click.argument("sandbox_id", metavar="SANDBOX")
@output_option
@api_options
def get(sandbox_id: str, *, form: OutputFormat, target: TargetOptions) -> None:
    """Show one sandbox. SANDBOX is an id or the unique beginning of an id."""

    async def act(api: "AsyncMuster") -> Row:
        return msgspec.to_builtins(await api.sandboxes.get(await whole_sandbox_id(api, sandbox_id)))

    row = call(target, act)
    if form == "table":
        describe(row)
    else:
        emit_row(row, form, SANDBOXES)


@sandbox.command()
@click.argument("sandbox_id", metavar="SANDBOX")
@output_option
@api_options
def verify(sandbox_id: str, *, form: OutputFormat, target: TargetOptions) -> None:
    """Check that the whole log of SANDBOX is correct.

    A correct log contains each event number (seq) once and in order, belongs to one attempt, and contains nothing
    after its end. The exit code is 1 if the log breaks one of these rules; the faults are listed on stderr.
    """

    async def act(api: "AsyncMuster") -> Row:
        return msgspec.to_builtins(await api.sandboxes.verify(await whole_sandbox_id(api, sandbox_id)))

    verdict = call(target, act)
    emit_row(verdict, form, VERDICTS)
    for gap in verdict["gaps"]:
        say(one_line(f"gap: {gap}"))
    for fault in verdict["faults"]:
        say(one_line(f"fault: {fault}"))
    sys.exit(Exit.OK if verdict["ok"] else Exit.FAILURE)
