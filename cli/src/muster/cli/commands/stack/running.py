"""Implements `muster down | status | ps`, which stop and show the stack on this machine."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import click

from muster.cli.commands.stack.isolation_option import isolation_text, warn_of_weak_isolation
from muster.cli.commands.stack.selected_stack import stack_directory, stack_options
from muster.cli.commands.stack.stack_rows import PROCESSES, stack_rows
from muster.cli.commands.watching import keep_showing, watch_option
from muster.cli.console.output import Exit, OutputFormat, Row, emit, emit_rows, fail, output_option, say
from muster.embedded.stack_directory import holder

DOWN_DEADLINE_S = 45.0
"""Seconds that `down` waits for the stack to stop."""


@click.command()
@stack_options
def down(data: Path | None, ready_file: Path | None) -> None:
    """Stop a stack and return when all its processes have ended."""
    data_dir = stack_directory(data, ready_file)
    pid = holder(data_dir)
    if pid is None:
        say(f"No stack is running in {data_dir}.")
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        fail(f"`muster up` (pid {pid}) belongs to another user. Run `muster down` as that user", Exit.AUTH)
    from muster.embedded.processes import wait_for_exit

    async def gone() -> None:
        async with asyncio.timeout(DOWN_DEADLINE_S):
            await wait_for_exit(pid)

    try:
        asyncio.run(gone())
    except TimeoutError:
        fail(
            f"`muster up` (pid {pid}) was still stopping after {DOWN_DEADLINE_S:g} s. Run `muster down` again to wait",
            Exit.TIMEOUT,
        )
    say("Stopped.")


@click.command()
@stack_options
@watch_option
@output_option
def status(data: Path | None, ready_file: Path | None, *, watch: bool, form: OutputFormat) -> None:
    """Show the processes of the stack and its addresses.

    The exit code is 1 if a process is missing, and 7 if no stack runs.
    """
    data_dir = stack_directory(data, ready_file)
    if watch:
        _keep_showing(data_dir, form)
        return
    ready, rows = stack_rows(data_dir)
    total_mb = round(sum(row["memory_mb"] or 0 for row in rows), 1)
    if form in ("json", "yaml"):
        emit(
            {
                "data_dir": ready.data_dir,
                "version": ready.version,
                "api_url": ready.api_url,
                "gateway_url": ready.gateway_url,
                "isolation": isolation_text(ready),
                "provider_isolation": ready.provider_isolation,
                "memory_mb": total_mb,
                "processes": rows,
            },
            form,
        )
    else:
        emit_rows(rows, form, PROCESSES)
        facts = {
            "API": ready.api_url,
            "gateway": ready.gateway_url,
            "isolation": isolation_text(ready),
            "memory": f"{total_mb} MB",
            "data": ready.data_dir,
        }
        say("\n".join(f"{name:<9} {text}" for name, text in facts.items()))
        warn_of_weak_isolation(ready)
    sys.exit(_exit_code(rows))


@click.command()
@stack_options
@watch_option
@output_option
def ps(data: Path | None, ready_file: Path | None, *, watch: bool, form: OutputFormat) -> None:
    """Show each part of the stack: state, pid, uptime, memory, restarts, port.

    The exit code is 1 if a process is missing, and 7 if no stack runs.
    """
    data_dir = stack_directory(data, ready_file)
    if watch:
        _keep_showing(data_dir, form)
        return
    _, rows = stack_rows(data_dir)
    emit_rows(rows, form, PROCESSES)
    sys.exit(_exit_code(rows))


def _exit_code(rows: list[Row]) -> Exit:
    return Exit.OK if all(row["state"] == "running" for row in rows) else Exit.FAILURE


def _keep_showing(data_dir: Path, form: OutputFormat) -> None:
    async def read() -> list[Row]:
        return stack_rows(data_dir)[1]

    try:
        asyncio.run(keep_showing(read, form, PROCESSES))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
