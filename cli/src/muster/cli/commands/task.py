"""`muster task`: submit, list, get, watch, steer, cancel."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id, whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, call, show_rows
from muster.cli.commands.events import follow_feed
from muster.cli.commands.watching import watch_option
from muster.cli.console.output import (
    Exit,
    Form,
    Row,
    Shape,
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
from muster.cli.console.params import json_object, labels_option, page_options
from muster.cli.console.prompts import confirm, yes_option
from muster.cli.console.table import shortened, with_isolation
from muster.common.clock import utc_now
from muster.common.contracts.task_spec import Priority
from muster.common.contracts.tasks import TaskState
from muster.common.terminal import one_line, printable

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient
    from muster.common.contracts.tasks import TaskView

PRIORITIES = click.Choice(get_args(Priority), case_sensitive=False)
STATES = click.Choice(get_args(TaskState))
IN_STATE = f"Only those in this state: {one_of(get_args(TaskState))}."
FIRST = f"What is taken first: {one_of([word.lower() for word in get_args(Priority)])}."
_SHOWN_OF_VALIDATION = 4
SHOWN_CHARS = 40


def _cells(row: Row) -> Row:
    updated = datetime.fromisoformat(row["updated_at"])
    return {**row, "attempts": len(row["attempts"]), "updated": ago(updated, utc_now())}


TASKS = Shape(
    columns=("task_id", "state", "package", "model", "attempts", "updated", "objective"),
    spare=("model", "package", "attempts", "updated"),
    name="task_id",
    cells=_cells,
)
ATTEMPTS = Shape(
    columns=("epoch", "sandbox_id", "state", "isolation", "exit_code", "tokens", "model_calls", "cost_usd", "reason"),
    spare=("cost_usd", "model_calls", "isolation", "tokens", "exit_code"),
    name="sandbox_id",
    cells=with_isolation,
)
STEERED = Shape(
    columns=("message_id", "sandbox_id", "epoch", "stage", "text"), spare=("epoch", "sandbox_id"), name="message_id"
)


@click.group()
def task() -> None:
    """Submit tasks, look at them, steer and cancel them."""


@task.command()
@click.argument("objective")
@click.option("--repo", metavar="URL", help="The git repository to work in.")
@click.option("--ref", metavar="REF", help="The branch, tag or commit to start from.")
@click.option("--agent", metavar="AGENT", help="Who is to do it: a name or an id; otherwise a capable one is taken.")
@click.option("--package", metavar="NAME", help="The agent package, for instance openhands.")
@click.option("--model", metavar="MODEL", help="The model, as openai/gpt-5-mini.")
@click.option("--test", "test_command", metavar="CMD", help="The result counts only if this succeeds in the sandbox.")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="How long one attempt may take.")
@click.option("--priority", type=PRIORITIES, metavar="WORD", help=FIRST)
@click.option("--project", metavar="NAME", help="What limits and budgets count on.")
@labels_option("A label; may be given several times.")
@click.option("--metadata", metavar="JSON|@FILE|-", help="A JSON object kept with the task.")
@click.option("--wait", is_flag=True, help="Show what happens until the task has ended; exit code 6 if it failed.")
@output_option
@api_options
def submit(
    objective: str,
    *,
    repo: str | None,
    ref: str | None,
    agent: str | None,
    labels: dict[str, str],
    metadata: str | None,
    wait: bool,
    form: Form,
    target: TargetOptions,
    **given: Any,  # noqa: ANN401 - the options that are fields as they are
) -> None:
    """Queue a piece of work. OBJECTIVE says what is to be done; `-` reads it from stdin."""
    if ref and not repo:
        raise click.UsageError("--ref needs --repo")
    fields = {name: value for name, value in given.items() if value is not None}
    fields |= {"repo": {"url": repo, "ref": ref}} if repo else {}
    fields |= {"labels": labels} if labels else {}
    fields |= {"metadata": json_object(metadata, "--metadata")} if metadata else {}
    text = sys.stdin.read() if objective == "-" else objective

    async def act(api: "ApiClient") -> "TaskView":
        chosen = {"agent_id": await whole_agent_id(api, agent)} if agent else {}
        view = await api.submit(text, **fields, **chosen)
        if not wait:
            return view
        say(f"{view.task_id} is queued.")
        # With --wait the events are for the eye: stdout is for the result alone.
        async for sent in api.events(view.task_id):
            if event := sent.event:
                from muster.cli.console.event_line import line

                click.echo(line(event, sys.stderr), err=True)
        return await api.get(view.task_id)

    view = call(target, act)
    _emit(view, form)
    if wait:
        _exit_with(view)


@task.command("list")
@click.option("--state", type=STATES, metavar="STATE", help=IN_STATE)
@click.option("--project", metavar="NAME", help="Only those of this project.")
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
    """Show tasks, newest first."""

    async def read(api: "ApiClient") -> RowPage:
        page = await api.tasks(labels=labels, limit=limit, cursor=cursor, **filters)
        return RowPage(msgspec.to_builtins(page.tasks), page.next_cursor)

    narrowed = bool(labels or cursor or any(filters.values()))
    none = "No tasks yet. `muster task submit …` makes one." if not narrowed else "No such tasks."
    show_rows(target, read, form, TASKS, empty=none, watch=watch)


@task.command()
@click.argument("task_id", metavar="TASK")
@click.option("--diff", is_flag=True, help="Only the diff it reported, for `git apply`.")
@output_option
@api_options
def get(task_id: str, *, diff: bool, form: Form, target: TargetOptions) -> None:
    """Show one task with its attempts. TASK may be the unique beginning of an id."""

    async def act(api: "ApiClient") -> "TaskView":
        return await api.get(await whole_task_id(api, task_id))

    view = call(target, act)
    if diff:
        write_raw(view.diff or "")
        if not view.diff:
            say(f"{view.task_id} is {view.state}, and has reported no changes.")
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
def watch(task_id: str, *, form: Form, target: TargetOptions) -> None:
    """Show what happens in TASK until it has ended. Exit code 6 unless it completed."""

    async def act(api: "ApiClient") -> "TaskView":
        whole = await whole_task_id(api, task_id)
        await follow_feed(api, whole, form=form)
        return await api.get(whole)

    _exit_with(call(target, act))


@task.command()
@click.argument("task_id", metavar="TASK")
@click.argument("text")
@click.option("--urgent", is_flag=True, help="Interrupt what the agent is doing.")
@output_option
@api_options
def steer(task_id: str, text: str, *, urgent: bool, form: Form, target: TargetOptions) -> None:
    """Say TEXT to the agent at work on TASK."""

    async def act(api: "ApiClient") -> dict[str, Any]:
        return msgspec.to_builtins(await api.steer(await whole_task_id(api, task_id), text, urgent=urgent))

    emit_row(call(target, act), form, STEERED)


@task.command()
@click.argument("task_id", metavar="TASK")
@click.option("--reason", metavar="TEXT", help="Why; kept with the task.")
@yes_option
@output_option
@api_options
def cancel(task_id: str, *, reason: str | None, yes: bool, form: Form, target: TargetOptions) -> None:
    """End TASK for good. Its attempt is stopped, and it cannot be taken up again."""

    async def look(api: "ApiClient") -> "TaskView":
        return await api.get(await whole_task_id(api, task_id))

    async def act(api: "ApiClient") -> "TaskView":
        return await api.cancel(seen.task_id, reason)

    seen = call(target, look)
    confirm(f"Cancel {seen.task_id} ({seen.state}: {shortened(one_line(seen.objective), SHOWN_CHARS)})?", yes=yes)
    _emit(call(target, act), form)


def _emit(view: "TaskView", form: Form) -> None:
    emit_rows([msgspec.to_builtins(view)], form, TASKS)


def _describe(view: "TaskView") -> None:
    fields: dict[str, Any] = msgspec.to_builtins(view)
    attempts, diff = fields.pop("attempts"), fields.pop("diff")
    if fields["repo"]:
        fields["repo"] = " ".join(filter(None, fields["repo"].values()))
    if diff:
        fields["diff"] = f"{len(diff.splitlines())} lines; --diff shows it"
    describe(fields)
    if attempts:
        sys.stdout.write("\n")
        emit_rows(attempts, "table", ATTEMPTS)


def _exit_with(view: "TaskView") -> None:
    """Unless it completed: what the test said, last why it ended, and exit code 6."""
    if view.state == "completed":
        return
    for said in (view.validation or "").splitlines()[:_SHOWN_OF_VALIDATION]:
        say(f"  {printable(said)}".rstrip())
    say(why_it_ended(view))
    sys.exit(Exit.TASK_FAILED)


def why_it_ended(view: "TaskView") -> str:
    """How it ended, in a sentence; with what its attempts were given where that was the matter."""
    ended = "failed" if view.state == "failed" else f"is {view.state}"
    tries = f" after {len(view.attempts)} attempts" if len(view.attempts) > 1 else ""
    why = f": {one_line(view.error)}" if view.error else "."
    late = "timeout" in why.lower() or "timed out" in why
    limit = f" (an attempt may take {view.timeout_s:g} s; `--timeout` at submit says otherwise)" if late else ""
    return f"The task {ended}{tries}{why}{limit}"
