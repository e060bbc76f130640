"""Runs git and the tests of the demo in an environment without the user's settings and secrets."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

COMMAND_DEADLINE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """Exit code and output of a command; `output` contains both stdout and stderr."""

    code: int
    output: str

    @property
    def succeeded(self) -> bool:
        """Whether the command's exit code is 0."""
        return self.code == 0


async def run(*argv: str, cwd: Path, feed: str = "", deadline_s: float = COMMAND_DEADLINE_S) -> CommandResult:
    """Run a command with `feed` as its stdin and return its result.

    A command that exceeds the deadline is killed with all processes of its group; the result then has the code 124.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env=_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(deadline_s):
            output, _ = await process.communicate(feed.encode())
    except TimeoutError:
        return CommandResult(code=124, output=f"{argv[0]} took longer than {deadline_s:g} s")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return CommandResult(code=process.returncode or 0, output=output.decode(errors="replace"))


async def git(*arguments: str, cwd: Path, feed: str = "") -> CommandResult:
    """Run a git command with the same environment and deadline as the function `run`, and return its result."""
    return await run("git", *arguments, cwd=cwd, feed=feed)


def _environment() -> dict[str, str]:
    """Return environment variables with which `python3` is the interpreter of this process.

    With these variables git shows no prompts and reads no user settings.
    """
    python_dir = str(Path(sys.executable).parent)
    return {
        "PATH": os.pathsep.join((python_dir, os.environ.get("PATH", os.defpath))),
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "Muster demo",
        "GIT_AUTHOR_EMAIL": "demo@muster.invalid",
        "GIT_COMMITTER_NAME": "Muster demo",
        "GIT_COMMITTER_EMAIL": "demo@muster.invalid",
    }
