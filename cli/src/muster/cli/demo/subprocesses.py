"""Short commands of the demo's own: git and the tests, in an environment without anybody's settings or secrets."""

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
    """How a command ended. `output` is both streams together."""

    code: int
    output: str

    @property
    def good(self) -> bool:
        """Whether it says so itself."""
        return self.code == 0


async def run(*argv: str, cwd: Path, feed: str = "", deadline_s: float = COMMAND_DEADLINE_S) -> CommandResult:
    """Run to the end. One that takes too long is killed with all it started, and ends with 124."""
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
    """One git command."""
    return await run("git", *arguments, cwd=cwd, feed=feed)


def _environment() -> dict[str, str]:
    """`python3` is the Python that runs this; git asks nothing, and signs with a name that is nobody's."""
    ours = str(Path(sys.executable).parent)
    return {
        "PATH": os.pathsep.join((ours, os.environ.get("PATH", os.defpath))),
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
