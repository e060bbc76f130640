"""Implements `muster task list | get | steer | cancel`."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack, get_args

import click
import msgspec

from muster.cli.client.resolve_ids import whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, call, list_options, show_rows
from muster.cli.console.deliveries import delivery_line
from muster.cli.console.model_failures import failure_line
from muster.cli.console.output import (
    Exit,
    OutputFormat,
    Row,
    TableLayout,
    ago,
    describe,
    emit,
    emit_row,
    emit_rows,
    fail,
    one_of,
    output_option,
    say,
    write_raw,
)
from muster.cli.console.params import labels_option
from muster.cli.console.prompts import confirm, yes_option
from muster.cli.console.table import shortened
from muster.client.filters import TaskFilters
from muster.common.clock import utc_now
from muster.common.contracts.tasks import TaskState
from muster.common.terminal import one_line

if TYPE_CHECKING:
    from muster.client import AsyncMuster
    from muster.common.contracts.tasks import TaskView

STATES = click.Choice(get_args(TaskState))
STATE_HELP = f"Show only tasks in this state: {one_of(get_args(TaskState))}."
ENDED = ("completed", "failed", "cancelled")
"""States in which a task cannot be cancelled."""
OBJECTIVE_CHARS = 40
"""Characters of the objective that the confirmation of `cancel` shows."""


def _cells(row: Row) -> Row:
    updated = datetime.fromisoformat(row["updated_at"])
    return {**row, "attempts": len(row["attempts"]), "updated": ago(updated, utc_now())}


def _attempt_cells(row: Row) -> Row:
    return {**row, "cost_usd": "unknown" if row.get("unpriced_calls") else row.get("cost_usd")}


TASKS = TableLayout(
    columns=("task_id", "state", "package", "model", "attempts", "updated", "objective"),
    dropped_first=("model", "package", "attempts", "updated"),
    usual={"state": 10, "package": 12, "model": 24, "updated": 10, "objective": 20},
    name="task_id",
    cells=_cells,
)
ATTEMPTS = TableLayout(
    columns=(
        "epoch",
        "sandbox_id",
        "state",
        "isolation",
        "exit_code",
        "tokens",
        "model_calls",
        "cost_usd",
        "limit",
        "reason",
    ),
    dropped_first=("cost_usd", "model_calls", "isolation", "tokens", "exit_code"),
    name="sandbox_id",
    cells=_attempt_cells,
    hidden_if_empty=("limit",),
)
STEERED = TableLayout(
    columns=("message_id", "sandbox_id", "epoch", "stage", "text"),
    dropped_first=("epoch", "sandbox_id"),
    name="message_id",
)


@click.command("list")
@click.option("--state", type=STATES, metavar="STATE", help=STATE_HELP)
@click.option("--project", metavar="NAME", help="Show only tasks of this project.")
@labels_option("Show only tasks with this label; if repeated, with all of them.")
@list_options
def list_(
    *,
    limit: int,
    cursor: str | None,
    watch: bool,
    form: OutputFormat,
    target: TargetOptions,
    **filters: Unpack[TaskFilters],
) -> None:
    """Show tasks, newest first."""

    async def read(api: "AsyncMuster") -> RowPage:
        page = await api.tasks.list(limit=limit, cursor=cursor, **filters)
        return RowPage(msgspec.to_builtins(page.tasks), page.next_cursor)

    filtered = bool(cursor or any(filters.values()))
    none = "No tasks yet. `muster task submit …` queues one." if not filtered else "No tasks match."
    show_rows(target, read, form, TASKS, empty=none, watch=watch)


@click.command()
@click.argument("task_id", metavar="TASK")
@click.option("--diff", is_flag=True, help="Print only the diff of the result, for `git apply`.")
@output_option
@api_options
def get(task_id: str, *, diff: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show one task with its attempts. TASK is an id or the unique beginning of an id."""

    async def act(api: "AsyncMuster") -> "TaskView":
        return await api.tasks.get(await whole_task_id(api, task_id))

    view = call(target, act)
    if diff:
        write_raw(view.diff or "")
        if not view.diff:
            say(f"Task {view.task_id} has no diff (state: {view.state}).")
    elif form in ("json", "yaml"):
        emit(view, form)
    elif form == "table":
        _describe(view)
    else:
        emit_task(view, form)


@click.command()
@click.argument("task_id", metavar="TASK")
@click.argument("text")
@click.option("--urgent", is_flag=True, help="Interrupt the agent's current action.")
@output_option
@api_options
def steer(task_id: str, text: str, *, urgent: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Send TEXT as a steering message to the agent that works on TASK."""

    async def act(api: "AsyncMuster") -> dict[str, Any]:
        return msgspec.to_builtins(await api.tasks.steer(await whole_task_id(api, task_id), text, urgent=urgent))

    emit_row(call(target, act), form, STEERED)


@click.command()
@click.argument("task_id", metavar="TASK")
@click.option("--reason", metavar="TEXT", help="Store TEXT with the task as the reason.")
@yes_option
@output_option
@api_options
def cancel(task_id: str, *, reason: str | None, yes: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Cancel TASK and stop its attempt. A cancelled task cannot be resumed."""

    async def look(api: "AsyncMuster") -> "TaskView":
        return await api.tasks.get(await whole_task_id(api, task_id))

    async def act(api: "AsyncMuster") -> "TaskView":
        return await api.tasks.cancel(seen.task_id, reason)

    seen = call(target, look)
    if seen.state in ENDED:
        fail(f"{seen.task_id} cannot be cancelled: its state is already {seen.state}", Exit.CONFLICT)
    confirm(f"Cancel {seen.task_id} ({seen.state}: {shortened(one_line(seen.objective), OBJECTIVE_CHARS)})?", yes=yes)
    emit_task(call(target, act), form)


def emit_task(view: "TaskView", form: OutputFormat) -> None:
    """Print one task in the form that the user chose."""
    emit_rows([msgspec.to_builtins(view)], form, TASKS)


def _describe(view: "TaskView") -> None:
    fields: dict[str, Any] = msgspec.to_builtins(view)
    attempts, diff = fields.pop("attempts"), fields.pop("diff")
    if fields["repo"]:
        fields["repo"] = " ".join(filter(None, fields["repo"].values()))
    if view.deliver is not None:
        fields["deliver"] = "pull request" if view.deliver.pull_request else "push"
    if view.delivery is not None:
        fields["delivery"] = delivery_line(fields["delivery"])
    if view.attempts and (failing := view.attempts[-1].model_failure):
        fields["model_failure"] = failure_line(failing)
    if diff:
        fields["diff"] = f"{len(diff.splitlines())} lines; --diff prints them"
    describe(fields)
    if attempts:
        sys.stdout.write("\n")
        emit_rows(attempts, "table", ATTEMPTS)
