"""Implements `muster task payload`, which writes the whole body of a large event to a file or to stdout."""

import contextlib
import secrets
import sys
from collections.abc import Generator
from contextlib import aclosing
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from muster.cli.client.resolve_ids import whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.output import fail, say

if TYPE_CHECKING:
    from muster.client import AsyncMuster


@click.command()
@click.argument("task_id", metavar="TASK")
@click.argument("sha256", metavar="SHA256")
@click.argument("file", metavar="[FILE]", default="-")
@api_options
def payload(task_id: str, sha256: str, file: str, *, target: TargetOptions) -> None:
    """Write the whole body of a large event of TASK to FILE, or to stdout.

    `muster events TASK` shows the SHA256 of each body over 512 KiB, of which the event has only the head and the tail.
    The bytes are verified by the digest. FILE is written completely or not at all.
    """
    with _destination(file) as out:

        async def act(api: "AsyncMuster") -> int:
            return await _copy(api, await whole_task_id(api, task_id), sha256, out)

        size = call(target, act)
    say(f"wrote {size} bytes with the digest {sha256}")


@contextlib.contextmanager
def _destination(file: str) -> Generator[IO[bytes]]:
    """Open stdout for `-`, or a new file that gets its name when the block ends without an error."""
    if file == "-":
        yield sys.stdout.buffer
        return
    fresh = Path(f"{file}.{secrets.token_hex(4)}.part")
    try:
        with fresh.open("xb") as out:
            yield out
        fresh.replace(file)
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")
    finally:
        fresh.unlink(missing_ok=True)


async def _copy(api: "AsyncMuster", task_id: str, sha256: str, out: IO[bytes]) -> int:
    size = 0
    async with aclosing(api.tasks.payload(task_id, sha256)) as pieces:
        async for piece in pieces:
            out.write(piece)
            size += len(piece)
    out.flush()
    return size
