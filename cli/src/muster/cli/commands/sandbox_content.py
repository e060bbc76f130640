"""Implements `muster sandbox cp | logs | diff`, which copy files and show the output and the changes of a sandbox."""

import contextlib
import secrets
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import click

from muster.cli.client.resolve_ids import whole_sandbox_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.output import Exit, OutputFormat, emit, fail, output_option, say, write_raw
from muster.common.contracts.sandbox_files import LARGEST_FILE

if TYPE_CHECKING:
    from muster.client import AsyncMuster
    from muster.common.contracts.sandbox_files import SandboxDiff, WorkerOutputPage

STREAM = "-"
"""The name of stdin as a source, and of stdout as a destination."""


class CopyPlan(NamedTuple):
    """What `cp` does: `upload` or the other way, with the sandbox, the path in its workspace and the local path."""

    upload: bool
    sandbox: str
    path: str
    local: str


def copy_plan(source: str, destination: str) -> CopyPlan:
    """Return what a copy from `source` to `destination` does. Raises `UsageError` unless one of them is in a sandbox.

    `SANDBOX:PATH` is in a sandbox. A local path with a colon begins with `./` or `/`.
    """
    far, to = _in_sandbox(source), _in_sandbox(destination)
    if (far is None) == (to is None):
        raise click.UsageError("name one file of a sandbox, as SANDBOX:PATH, and one local file")
    if to is None:
        assert far is not None
        sandbox, path = far
        local = destination
        if local != STREAM and (local.endswith("/") or Path(local).is_dir()):
            local = str(Path(local) / PurePosixPath(path).name)
        return CopyPlan(upload=False, sandbox=sandbox, path=path, local=local)
    sandbox, path = to
    if path.endswith("/") or not path:
        if source == STREAM:
            raise click.UsageError("name the file that is written from stdin, as SANDBOX:PATH")
        path += Path(source).name
    return CopyPlan(upload=True, sandbox=sandbox, path=path, local=source)


def _in_sandbox(place: str) -> tuple[str, str] | None:
    name, colon, path = place.partition(":")
    return (name, path) if colon and name and "/" not in name and name != "." else None


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("destination", metavar="DESTINATION")
@api_options
def cp(source: str, destination: str, *, target: TargetOptions) -> None:
    """Copy a file into the workspace of a sandbox, or out of it.

    One of SOURCE and DESTINATION is SANDBOX:PATH, where PATH is relative to the workspace. The other one is a local
    file, or - for stdin or stdout. The file is written completely or not at all, and may have 64 MiB. To copy a folder,
    pack it: exec SANDBOX -- tar czf out.tgz src. Copying into a sandbox needs the role operator.
    """
    plan = copy_plan(source, destination)

    async def act(api: "AsyncMuster") -> int:
        sandbox_id = await whole_sandbox_id(api, plan.sandbox)
        if plan.upload:
            content = _read(plan.local)
            await api.sandboxes.write_file(sandbox_id, plan.path, content)
            return len(content)
        content = b"".join([part async for part in api.sandboxes.read_file(sandbox_id, plan.path)])
        _write(plan.local, content)
        return len(content)

    size = call(target, act)
    say(f"copied {size} bytes")


@click.command()
@click.argument("sandbox_id", metavar="SANDBOX")
@click.option("-f", "--follow", is_flag=True, help="Wait for new output until the worker ends.")
@click.option("--offset", type=int, metavar="BYTES", default=0, help="Begin at this byte; -1000 for the last 1000.")
@output_option
@api_options
def logs(sandbox_id: str, *, follow: bool, offset: int, form: OutputFormat, target: TargetOptions) -> None:
    """Show what the worker of SANDBOX wrote to stdout and stderr.

    This is the log of the worker's program, as far as it is kept. `muster sandbox log` shows the agent's events.
    """

    async def act(api: "AsyncMuster") -> "WorkerOutputPage":
        whole = await whole_sandbox_id(api, sandbox_id)
        page = await api.sandboxes.output(whole, offset)
        while page.text or (follow and page.running):
            if form == "table":
                write_raw(page.text)
                sys.stdout.flush()
            else:
                emit(page, form)
            page = await api.sandboxes.output(whole, page.next_offset, follow=follow)
        return page

    if form == "json":
        raise click.UsageError("logs needs -o table, jsonl, yaml or name: the output has several pages")
    page = call(target, act)
    if form == "table" and page.running:
        newer = f"; --offset {page.next_offset} shows only newer output" if page.next_offset else ""
        said = "" if page.next_offset else " and has printed nothing yet"
        say(f"The worker is running{said}. -f waits for new output{newer}.")


@click.command()
@click.argument("sandbox_id", metavar="SANDBOX")
@click.option("--at", "at", type=click.IntRange(0), metavar="SEQ", help="Show the changes until the event SEQ.")
@output_option
@api_options
def diff(sandbox_id: str, *, at: int | None, form: OutputFormat, target: TargetOptions) -> None:
    """Show what the agent has changed in the workspace of SANDBOX.

    The files are recorded after tool calls that change them, but at most 5 % of the time is used for it. So the newest
    changes may be missing for a second, or longer in a large workspace. A message says after which event the files were
    recorded. `muster sandbox log` shows the events and their SEQ.
    """

    async def act(api: "AsyncMuster") -> "tuple[SandboxDiff, int | None]":
        whole = await whole_sandbox_id(api, sandbox_id)
        found = await api.sandboxes.diff(whole, at)
        # Read after the diff, so that an event that the diff contains is never refused.
        following = (await api.sandboxes.get(whole)).next_seq
        return found, None if following is None else following - 1

    found, last = call(target, act)
    if at is not None and last is not None and at > last:
        fail(f"--at {at}: the log of this sandbox has no event {at}; its last event is {last}", Exit.NOT_FOUND)
    if form != "table":
        emit(found, form)
        return
    write_raw(found.diff)
    sys.stdout.flush()
    until = "" if at is None else f" until event {at}"
    if found.commit is None:
        say(f"The agent has changed no files{until}.")
    else:
        say(f"Recorded after event {found.seq}, as commit {found.commit[:12]}.")
        end = last if at is None else at
        if end is not None and end > found.seq:
            say(f"No later record until event {end}: changes after event {found.seq}, if there are any, are missing.")
    if found.truncated:
        say("The diff is longer than 1 MB, and its end was cut. `muster sandbox cp` copies single files.")


def _read(local: str) -> bytes:
    """Return the content of a local file or of stdin. Exits if it cannot be read or is too large."""
    try:
        if local == STREAM:
            content = sys.stdin.buffer.read(LARGEST_FILE + 1)
        else:
            with Path(local).open("rb") as file:
                content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        fail(f"{local} cannot be read: {error.strerror}")
    if len(content) > LARGEST_FILE:
        fail(f"{local} is larger than {LARGEST_FILE >> 20} MiB; compress it or copy parts of it")
    return content


def _write(local: str, content: bytes) -> None:
    """Write a local file completely or not at all, or write to stdout."""
    if local == STREAM:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    fresh = Path(f"{local}.{secrets.token_hex(4)}.part")
    try:
        fresh.write_bytes(content)
        fresh.replace(local)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        fail(f"{local} cannot be written: {error.strerror}")
