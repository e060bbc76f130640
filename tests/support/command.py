"""The real `muster`, run as a person or a program runs it."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

MUSTER = Path(sys.executable).with_name("muster")


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
    process = await asyncio.create_subprocess_exec(
        MUSTER,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**env),
    )
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    assert "Traceback" not in err.decode(), err.decode()
    return Ended(process.returncode, out.decode(), err.decode())
