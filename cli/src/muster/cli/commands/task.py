"""Implements `muster task submit | list | get | watch | steer | cancel`."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack, get_args

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id, whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, call, list_options, show_rows
from muster.cli.commands.events import follow_feed
from muster.cli.commands.task_options import task_field_options, task_fields
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
    one_of,
    output_option,
    say,
    write_raw,
)
from muster.cli.console.params import labels_option
from muster.cli.console.prompts import confirm, yes_option
from muster.cli.console.table import shortened, with_isolation
from muster.client.filters import TaskFilters
from muster.common.clock import utc_now
from muster.common.contracts.task_bodies import NewTask
from muster.common.contracts.tasks import TaskState
from muster.common.terminal import one_line, printable

if TYPE_CHECKING:
    from muster.client import AsyncMuster
    from muster.common.contracts.tasks import TaskView

STATES = click.Choice(get_args(TaskState))
STATE_HELP = f"Show only tasks in this state: {one_of(get_args(TaskState))}."
_VALIDATION_LINES = 4
"""Lines of the test's output that are printed for a failed task."""
OBJECTIVE_CHARS = 40
"""Characters of the objective that the confirmation of `cancel` shows."""


def _cells(row: Row) -> Row:
    updated = datetime.fromisoformat(row["updated_at"])
    return {**row, "attempts": len(row["attempts"]), "updated": ago(updated, utc_now())}


TASKS = TableLayout(
    columns=("task_id", "state", "package", "model", "attempts", "updated", "objective"),
    dropped_first=("model", "package", "attempts", "updated"),
    name="task_id",
    cells=_cells,
)
ATTEMPTS = TableLayout(
    columns=("epoch", "sandbox_id", "state", "isolation", "exit_code", "tokens", "model_calls", "cost_usd", "reason"),
    dropped_first=("cost_usd", "model_calls", "isolation", "tokens", "exit_code"),
    name="sandbox_id",
    cells=with_isolation,
)
STEERED = TableLayout(
    columns=("message_id", "sandbox_id", "epoch", "stage", "text"),
    dropped_first=("epoch", "sandbox_id"),
    name="message_id",
)


@click.group()
def task() -> None:
    """Submit, show, watch, steer and cancel tasks."""


@task.command()
@click.argument("objective")
@click.option(
    "--agent",
    metavar="AGENT",
    help="Assign the task to this agent (name or id); otherwise Muster chooses a capable one.",
)
@task_field_options
@click.option("--wait", is_flag=True, help="Show the task's events until the task ends; exit with 6 if it failed.")
@output_option
@api_options
def submit(
    objective: str,
    *,
    agent: str | None,
    wait: bool,
    form: OutputFormat,
    target: TargetOptions,
    **options: Any,  # noqa: ANN401 - the options that `task_fields` converts
) -> None:
    """Queue a task. OBJECTIVE describes the work; with `-` the description is read from stdin."""
    fields = task_fields(options)
    text = sys.stdin.read() if objective == "-" else objective

    async def act(api: "AsyncMuster") -> "TaskView":
        if agent is not None:
            fields["agent_id"] = await whole_agent_id(api, agent)
        if others := fields.get("depends_on"):
            fields["depends_on"] = [await whole_task_id(api, other) for other in others]
        view = await api.tasks.submit(NewTask(objective=text, **fields))
        if not wait:
            return view
        say(f"{view.task_id} is queued.")
        # The events go to stderr, so that stdout contains only the task, in the format of `-o`.
        async for sent in api.tasks.events(view.task_id):
            if event := sent.event:
                from muster.cli.console.event_line import event_line

                click.echo(event_line(event, sys.stderr), err=True)
        return await api.tasks.get(view.task_id)

    view = call(target, act)
    _emit(view, form)
    if wait:
        _exit_with(view)


@task.command("list")
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


@task.command()
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
        _emit(view, form)


@task.command()
@click.argument("task_id", metavar="TASK")
@output_option
@api_options
def watch(task_id: str, *, form: OutputFormat, target: TargetOptions) -> None:
    """Show the events of TASK until the task ends. The exit code is 6 unless the task completed."""

    async def act(api: "AsyncMuster") -> "TaskView":
        whole = await whole_task_id(api, task_id)
        await follow_feed(api, whole, form=form)
        return await api.tasks.get(whole)

    _exit_with(call(target, act))


@task.command()
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


@task.command()
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
    confirm(f"Cancel {seen.task_id} ({seen.state}: {shortened(one_line(seen.objective), OBJECTIVE_CHARS)})?", yes=yes)
    _emit(call(target, act), form)


def _emit(view: "TaskView", form: OutputFormat) -> None:
    emit_rows([msgspec.to_builtins(view)], form, TASKS)


def _describe(view: "TaskView") -> None:
    fields: dict[str, Any] = msgspec.to_builtins(view)
    attempts, diff = fields.pop("attempts"), fields.pop("diff")
    if fields["repo"]:
        fields["repo"] = " ".join(filter(None, fields["repo"].values()))
    if diff:
        fields["diff"] = f"{len(diff.splitlines())} lines; --diff prints them"
    describe(fields)
    if attempts:
        sys.stdout.write("\n")
        emit_rows(attempts, "table", ATTEMPTS)


def _exit_with(view: "TaskView") -> None:
    """Do nothing if the task completed; otherwise print the task's test output and error, and exit with 6."""
    if view.state == "completed":
        return
    for text in (view.validation or "").splitlines()[:_VALIDATION_LINES]:
        say(f"  {printable(text)}".rstrip())
    say(why_it_ended(view))
    sys.exit(Exit.TASK_FAILED)


def why_it_ended(view: "TaskView") -> str:
    """Return a sentence with the task's final state and error; add the time limit if an attempt exceeded it."""
    ended = "failed" if view.state == "failed" else f"is {view.state}"
    tries = f" after {len(view.attempts)} attempts" if len(view.attempts) > 1 else ""
    why = f": {one_line(view.error)}" if view.error else "."
    late = "timeout" in why.lower() or "timed out" in why
    limit = f" (the limit is {view.timeout_s:g} s; `muster task submit --timeout` sets it)" if late else ""
    return f"The task {ended}{tries}{why}{limit}"
