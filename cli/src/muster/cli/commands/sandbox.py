"""Implements `muster sandbox list | get | log | verify`; `sandbox_content` and `sandbox_exec` have the others."""

import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, get_args

import click
import msgspec

from muster.cli.client.resolve_ids import whole_sandbox_id, whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, call, row_options, show_rows
from muster.cli.commands.sandbox_content import cp, diff, logs
from muster.cli.commands.sandbox_exec import exec_
from muster.cli.console.command_group import CommandGroup
from muster.cli.console.output import (
    Exit,
    OutputFormat,
    Row,
    TableLayout,
    describe,
    emit_row,
    one_of,
    output_option,
    say,
)
from muster.common.contracts.gateway import SandboxState
from muster.common.terminal import one_line

if TYPE_CHECKING:
    from muster.client import AsyncMuster, FeedItem
    from muster.common.contracts.feed import FeedEvent

STATES = click.Choice(get_args(SandboxState))
STATE_HELP = f"Show only sandboxes in this state: {one_of(get_args(SandboxState))}."


def _cells(row: Row) -> Row:
    """Return the cells of one sandbox, with whole seconds."""
    seconds = row.get("seconds")
    return {**row, "seconds": None if seconds is None else round(seconds)}


def limits_text(limits: Row) -> str:
    """Return the limits of a sandbox in words, one per line, such as `memory 4 GiB`; unset limits are left out."""
    set_limits = {name: value for name, value in limits.items() if value is not None}
    return "\n".join(_limit(name, value) for name, value in set_limits.items())


def _limit(name: str, value: float) -> str:
    if name == "cpu_s":
        return f"cpu time {value:g} s for each process"
    words = name.removesuffix("_bytes").replace("_", " ")
    if not name.endswith("_bytes"):
        return f"{words} {value:.15g}"
    units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
    unit, size = next(((unit, size) for unit, size in units if value and value % size == 0), ("bytes", 1))
    return f"{words} {value / size:.15g} {unit}"


SANDBOXES = TableLayout(
    columns=(
        "sandbox_id",
        "task_id",
        "epoch",
        "state",
        "provider",
        "isolation",
        "package",
        "next_seq",
        "exit_code",
        "seconds",
        "cost_usd",
    ),
    dropped_first=("provider", "package", "next_seq", "exit_code", "task_id", "epoch"),
    usual={"state": 8, "provider": 8, "isolation": 13, "package": 12, "seconds": 7, "cost_usd": 8},
    hidden_if_empty=("next_seq",),
    name="sandbox_id",
    cells=_cells,
)
VERDICTS = TableLayout(
    columns=("sandbox_id", "ok", "frames", "events", "epoch", "ended"),
    name="sandbox_id",
    cells=lambda row: {**row, "ok": "yes" if row["ok"] else "no"},
)


@click.group(cls=CommandGroup)
def sandbox() -> None:
    """Show sandboxes, verify their logs, run commands in them and copy files."""


for content_command in (cp, logs, diff, exec_):
    sandbox.add_command(content_command)


@sandbox.command("list")
@click.option("--task", metavar="TASK", help="Show only the sandboxes of TASK.")
@click.option("--state", type=STATES, metavar="STATE", help=STATE_HELP)
@row_options
def list_(*, task: str | None, state: str | None, watch: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show sandboxes, newest first."""

    async def read(api: "AsyncMuster") -> RowPage:
        page = await api.sandboxes.list(None if task is None else await whole_task_id(api, task))
        return RowPage([msgspec.to_builtins(one) for one in page.sandboxes if state in (None, one.state)])

    none = "No sandboxes yet. Each attempt at a task gets one." if task is None else "This task has no sandboxes."
    if state is not None:
        none = f"No sandbox is in the state {state}."
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
        limits = row.get("limits")
        describe({**row, "limits": limits_text(limits)} if limits else row)
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


@sandbox.command("log")
@click.argument("sandbox_id", metavar="SANDBOX")
@click.option("-f", "--follow/--no-follow", default=False, help="Wait for new events until the task ends.")
@output_option
@api_options
def log(sandbox_id: str, *, follow: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show the log of SANDBOX, with its frames and the agent's events.

    `muster events TASK` shows the events of all sandboxes of a task, of the task itself and of the guardian. `muster
    sandbox logs` shows what the worker's program prints.
    """
    from muster.cli.commands.events import show_feed

    async def act(api: "AsyncMuster") -> None:
        view = await api.sandboxes.get(await whole_sandbox_id(api, sandbox_id))
        await show_feed(_of_sandbox(api, view.task_id, view.sandbox_id, follow=follow), form)

    call(target, act)


async def _of_sandbox(
    api: "AsyncMuster", task_id: str, sandbox_id: str, *, follow: bool
) -> "AsyncGenerator[FeedItem[FeedEvent]]":
    """Yield the items of the task's feed that are about the sandbox's log, and the feed's own messages."""
    async with aclosing(api.tasks.events(task_id, follow=follow)) as feed:
        async for item in feed:
            if item.event is None or (item.event.source == "log" and item.event.sandbox_id == sandbox_id):
                yield item
