"""The real `muster`, run as a person or a program runs it."""

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
"""The program itself, for a test that talks to it while it runs; others call `muster`."""


class Ended(NamedTuple):
    """What it printed where, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


def environment(**env: str) -> dict[str, str]:
    """What a command sees: nothing of the machine's own stack or profiles."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
    return ours | {"XDG_CONFIG_HOME": "/nonexistent", "COLUMNS": "200"} | env


async def muster(*arguments: str, stdin: str = "", **env: str) -> Ended:
    """Run it to its end. No mistake may ever be a traceback."""
    with TemporaryFile() as read, TemporaryFile() as printed, TemporaryFile() as complained:
        read.write(stdin.encode())
        read.seek(0)
        start = functools.partial(started, stdin=read, stdout=printed, stderr=complained)
        process = await asyncio.to_thread(start, "muster.cli", *arguments, env=environment(**env))
        try:
            code = await asyncio.to_thread(process.wait)
        finally:  # of one that is waited for no longer
            process.kill()
        printed.seek(0)
        complained.seek(0)
        out, err = printed.read().decode(), complained.read().decode()
    assert "Traceback" not in err, err
    return Ended(code, out, err)
