"""Implements `muster task submit` and `muster task retry`, which queue new tasks."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id, whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.commands.task.following import followed_feed, tells_that_tasks_go_on, until_all_ended
from muster.cli.commands.task.outcome import exit_with
from muster.cli.commands.task.repository import repository_url
from muster.cli.commands.task.task_file import TaskFile, read_task_file
from muster.cli.commands.task.tasks import TASKS
from muster.cli.commands.task_options import task_field_options, task_fields
from muster.cli.console.output import OutputFormat, emit_rows, output_option, say
from muster.common.contract import fields_of
from muster.common.contracts.task_bodies import NewDeliver, NewRepo, NewTask
from muster.common.contracts.task_spec import Deliver

if TYPE_CHECKING:
    from muster.client import AsyncMuster
    from muster.common.contracts.tasks import TaskView


def _wait_option[F: Callable[..., Any]](command: F) -> F:
    text = "Show the task's events until the task ends; exit with 6 if it failed."
    return click.option("--wait", is_flag=True, help=text)(command)


@click.command()
@click.argument("objective", required=False)
@click.option(
    *("-f", "--file"),
    metavar="FILE|-",
    help="Read the task from this YAML or JSON file; each YAML document is one task. Options override the file.",
)
@click.option(
    "--agent",
    metavar="AGENT",
    help="Assign the task to this agent (name or id); otherwise Muster chooses a capable one.",
)
@task_field_options
@_wait_option
@output_option
@api_options
def submit(
    objective: str | None,
    *,
    file: str | None,
    agent: str | None,
    wait: bool,
    form: OutputFormat,
    target: TargetOptions,
    **options: Any,  # noqa: ANN401 - the options that `task_fields` converts
) -> None:
    """Queue a task. OBJECTIVE describes the work; with `-` the description is read from stdin.

    With -f the tasks come from a file with the fields of the API's tasks, for instance objective, repo, test_command
    and depends_on. A field `name` lets depends_on of another task in the file refer to the task.
    """
    fields = task_fields(options) | ({"agent_id": agent} if agent is not None else {})
    given = _given_tasks(objective, file, fields)

    async def act(api: "AsyncMuster") -> "list[TaskView]":
        return await _submit_all(api, given, wait=wait)

    _show(call(target, act), form, wait=wait)


def _given_tasks(objective: str | None, file: str | None, fields: dict[str, Any]) -> TaskFile:
    """Return the tasks of the command line or the file. Raises `click.UsageError` if neither or both use stdin."""
    if objective is None and file is None:
        raise click.UsageError("Missing argument 'OBJECTIVE': describe the work, or give a file with -f")
    if objective == "-" and file == "-":
        raise click.UsageError("OBJECTIVE and -f cannot both be read from stdin")
    if objective is not None:
        fields["objective"] = sys.stdin.read() if objective == "-" else objective
    if file is not None:
        return read_task_file(file, fields)
    if repo := fields.get("repo"):
        fields["repo"] = NewRepo(url=repository_url(repo.url), ref=repo.ref)
    return TaskFile([NewTask(**fields)], [None])


async def _submit_all(api: "AsyncMuster", given: TaskFile, *, wait: bool) -> "list[TaskView]":
    """Submit tasks in their order; a `depends_on` that names a task of the same file becomes the id of that task."""
    ids: dict[str, str] = {}
    views: list[TaskView] = []
    for name, task in zip(given.names, given.tasks, strict=True):
        depends_on = [ids.get(other) or await whole_task_id(api, other) for other in task.depends_on]
        agent_id = None if task.agent_id is None else await whole_agent_id(api, task.agent_id)
        view = await api.tasks.submit(msgspec.structs.replace(task, depends_on=depends_on, agent_id=agent_id))
        views.append(view)
        if name is not None:
            ids[name] = view.task_id
        if wait or len(given.tasks) > 1:
            say(f"{view.task_id} is queued." if name is None else f"{view.task_id} is queued ({name}).")
    return await _wait_for(api, views) if wait else views


async def _wait_for(api: "AsyncMuster", views: "Sequence[TaskView]") -> "list[TaskView]":
    """Wait until these tasks end. The events of a single task are shown meanwhile."""
    ids = [view.task_id for view in views]
    with tells_that_tasks_go_on(ids):
        if len(ids) > 1:
            await until_all_ended(api, ids)
        else:
            await _show_events(api, ids[0])
        return [await api.tasks.get(one) for one in ids]


async def _show_events(api: "AsyncMuster", task_id: str) -> None:
    from muster.cli.console.event_text import event_text

    # The events go to stderr, so that stdout contains only the task, in the format of `-o`.
    async for sent in followed_feed(api, task_id):
        if sent.event:
            click.echo(event_text(sent.event, sys.stderr), err=True)


def _show(views: "Sequence[TaskView]", form: OutputFormat, *, wait: bool) -> None:
    emit_rows(msgspec.to_builtins(views), form, TASKS)
    if wait:
        exit_with(views)


@click.command()
@click.argument("task_id", metavar="TASK")
@_wait_option
@output_option
@api_options
def retry(task_id: str, *, wait: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Queue a new task with all fields of TASK. TASK itself is not changed.

    The new task starts from a fresh clone of the repository.
    """

    async def act(api: "AsyncMuster") -> "list[TaskView]":
        before = await api.tasks.get(await whole_task_id(api, task_id))
        view = await api.tasks.submit(repeated(before))
        say(f"{view.task_id} is queued; it repeats {before.task_id}.")
        return await _wait_for(api, [view]) if wait else [view]

    _show(call(target, act), form, wait=wait)


def repeated(view: "TaskView") -> NewTask:
    """Return a new task with all fields that the submitter of this task gave."""
    fields: dict[str, Any] = {name: getattr(view, name) for name in NewTask.__struct_fields__}
    # The view's `agent_id` is the agent of the last attempt, which Muster may have chosen.
    fields["agent_id"] = view.wanted_agent_id
    if view.repo is not None:
        fields["repo"] = NewRepo(url=view.repo.url, ref=view.repo.ref)
    if view.deliver is not None:
        fields["deliver"] = NewDeliver(**fields_of(Deliver, view.deliver))
    return NewTask(**fields)
