"""Runs the real `muster` command as a child process."""

import asyncio
import functools
import os
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import msgspec

from tests.support.prefork import started

MUSTER = Path(sys.executable).with_name("muster")
"""Path of the program, for a test that writes to the running command; other tests call `muster` below."""


class Ended(NamedTuple):
    """The exit code, stdout and stderr of a command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


def environment(**env: str) -> dict[str, str]:
    """Return the environment of a command, without the settings and profiles of this machine's user."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
    return ours | {"XDG_CONFIG_HOME": "/nonexistent", "COLUMNS": "200"} | env


async def muster(*arguments: str, stdin: str = "", **env: str) -> Ended:
    """Run a command until it ends and return its result. Asserts that stderr contains no traceback."""
    with TemporaryFile() as read, TemporaryFile() as printed, TemporaryFile() as complained:
        read.write(stdin.encode())
        read.seek(0)
        start = functools.partial(started, stdin=read, stdout=printed, stderr=complained)
        process = await asyncio.to_thread(start, "muster.cli", *arguments, env=environment(**env))
        try:
            code = await asyncio.to_thread(process.wait)
        finally:
            process.kill()  # The command still runs if the wait was cancelled.
        printed.seek(0)
        complained.seek(0)
        out, err = printed.read().decode(), complained.read().decode()
    assert "Traceback" not in err, err
    return Ended(code, out, err)
