"""The repository an agent works in: cloned once, and at the end told apart from what it was."""

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path

from muster.common.contracts.doors import Handoff

CLONE_DEADLINE_S = 300.0
CALL_DEADLINE_S = 60.0
MAX_OUTPUT_BYTES = 8 << 20
"""What is kept of git's words: far more than a diff that can be reported, far less than a worker's memory."""
_CHUNK_BYTES = 64 << 10
_DIFF = ["diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv"]
_NOT_WORK = ["__pycache__/", "*.pyc", ".pytest_cache/", ".ruff_cache/", ".mypy_cache/", ".hypothesis/"]


class GitFailed(Exception):
    """git said no, or took too long."""


class GitRefused(GitFailed):
    """git said no."""


class NoSuchRef(GitFailed):
    """The repository is there, and has no such branch, tag or commit."""


class Workspace:
    """One agent's working tree. `prepare` and `diff` may be called again after a kill."""

    def __init__(self, handoff: Handoff) -> None:
        self._repo = handoff.repo
        self._tree, self._state = Path(handoff.workspace), Path(handoff.state_dir)
        self._marker = self._state / "base"

    async def prepare(self) -> None:
        """Clones, or starts an empty repository, unless an earlier launch has. Raises `GitFailed`."""
        self._state.mkdir(parents=True, exist_ok=True)
        self._tree.mkdir(parents=True, exist_ok=True)
        if self._marker.exists():
            return
        if self._repo is None:
            await asyncio.to_thread(shutil.rmtree, self._tree / ".git", ignore_errors=True)  # half an init holds locks
            await self._git("init", "-q")
            await self._identify()
            await self._git("commit", "-q", "--allow-empty", "-m", "Start")
        else:
            await asyncio.to_thread(_empty, self._tree)  # an earlier launch was killed half-way
            await self._git("clone", "-q", "--", self._repo.url, ".", deadline_s=CLONE_DEADLINE_S)
            if self._repo.ref:
                await self._check_out(self._repo.ref)
            await self._identify()
        base = (await self._git("rev-parse", "HEAD")).decode().strip()
        fresh = self._marker.with_suffix(".new")
        fresh.write_text(base)
        fresh.replace(self._marker)

    async def diff(self) -> str:
        """Everything that differs from the base, new files included, committed or not, as `git apply` takes it.

        A second index is used, so that what the agent staged stays as it is. Raises `GitFailed`.
        """
        base = self._marker.read_text()
        index = self._state / "diff.index"
        mine = self._tree / ".git" / "index"
        if mine.exists():
            shutil.copyfile(mine, index)  # only so that git need not read every file again
        await self._git("add", "-A", index=index)
        patch = await self._git(*_DIFF, "--cached", base, index=index)
        with suppress(UnicodeDecodeError):
            if b"\0" not in patch:
                return patch.decode()
        return (await self._binary_diff(base, index)).decode(errors="replace")

    async def _binary_diff(self, base: str, index: Path) -> bytes:
        """For text that does not survive JSON: another encoding, or a NUL in what the agent's attributes call text.

        Between two trees, with neither a work tree nor an index: so the agent's own `.gitattributes` have no say.
        """
        attributes, nowhere = self._state / "attributes", self._state / "nowhere"
        attributes.write_text("* -diff\n")
        nowhere.mkdir(exist_ok=True)
        work = (await self._git("write-tree", index=index)).decode().strip()
        place = ["--git-dir", str(self._tree / ".git"), "--work-tree", str(nowhere)]
        args = [*place, "-c", f"core.attributesFile={attributes}", *_DIFF, base, work]
        return await self._git(*args, index=nowhere / "index", cwd=nowhere)

    async def _check_out(self, ref: str) -> None:
        if not (await self._has(ref) or await self._has(f"origin/{ref}")):
            raise NoSuchRef(f"the repository has no branch, tag or commit {ref}")
        await self._git("checkout", "-q", ref, "--")

    async def _has(self, revision: str) -> bool:
        try:
            await self._git("rev-parse", "-q", "--verify", f"{revision}^{{commit}}")
        except GitRefused:
            return False
        return True

    async def _identify(self) -> None:
        """Commits of the agent have an author, and caches are nobody's work."""
        await self._git("config", "user.name", "Muster agent")
        await self._git("config", "user.email", "agent@muster.invalid")
        exclude = self._tree / ".git" / "info" / "exclude"
        exclude.parent.mkdir(parents=True, exist_ok=True)
        exclude.write_text("\n".join([*_NOT_WORK, ""]))

    async def _git(
        self, *args: str, index: Path | None = None, cwd: Path | None = None, deadline_s: float = CALL_DEADLINE_S
    ) -> bytes:
        git = await asyncio.create_subprocess_exec(
            "git",
            *args,
            cwd=cwd or self._tree,
            env=_environment(self._state) | ({"GIT_INDEX_FILE": str(index)} if index else {}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(deadline_s):
                output, complaint = await asyncio.gather(*(_output(git, pipe) for pipe in (git.stdout, git.stderr)))
                await git.wait()
        except TimeoutError:
            raise GitFailed(f"git {args[0]} took longer than {deadline_s:g} s") from None
        finally:
            if git.returncode is None:
                git.kill()
                await git.wait()
        if max(len(output), len(complaint)) > MAX_OUTPUT_BYTES:
            raise GitFailed(f"git {args[0]} wrote more than {MAX_OUTPUT_BYTES} bytes")
        if git.returncode:
            said = complaint.decode(errors="replace").strip()[-500:]
            raise GitRefused(f"git {args[0]} ended with {git.returncode}: {said}")
        return output


async def _output(git: asyncio.subprocess.Process, pipe: asyncio.StreamReader | None) -> bytes:
    """What git writes, until it ends or has written too much, which ends it."""
    kept = bytearray()
    while pipe and (chunk := await pipe.read(_CHUNK_BYTES)):
        kept += chunk
        if len(kept) > MAX_OUTPUT_BYTES:
            with suppress(ProcessLookupError):
                git.kill()
            break
    return bytes(kept)


def _environment(home: Path) -> dict[str, str]:
    """Nobody's settings, nobody's hooks, no question to a terminal that is not there."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
