"""The repository that an agent works in: `prepare` clones it, `diff` returns the changes since then.

As its last step, `prepare` writes the commit that it started from into the file `base`. If the next launch finds no
such file, it empties the folder and clones again. If it finds the file, it keeps the agent's work.
"""

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path

from muster.common.contracts.worker_api import Handoff

CLONE_DEADLINE_S = 300.0
CALL_DEADLINE_S = 60.0
MAX_OUTPUT_BYTES = 8 << 20
"""Most bytes of git's output that are kept: more than any diff that can be reported, less than a worker's memory."""
_CHUNK_BYTES = 64 << 10
_DIFF = ["diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv"]
_NOT_WORK = ["__pycache__/", "*.pyc", ".pytest_cache/", ".ruff_cache/", ".mypy_cache/", ".hypothesis/"]


class GitFailed(Exception):
    """A git command failed, took too long or wrote too much."""


class GitRefused(GitFailed):
    """A git command ended with an exit code other than 0."""


class NoSuchRef(GitFailed):
    """The repository was cloned, but has no branch, tag or commit with the requested name."""


class Workspace:
    """The working tree of one agent. After a kill, `prepare` and `diff` may be called again."""

    def __init__(self, handoff: Handoff) -> None:
        self._repo = handoff.repo
        self._tree, self._state = Path(handoff.workspace), Path(handoff.state_dir)
        self._marker = self._state / "base"

    async def prepare(self) -> str:
        """Clone the repository, or create an empty one. Keep the work of an earlier launch. Raises `GitFailed`.

        Returns the commit that the agent starts from.
        """
        self._state.mkdir(parents=True, exist_ok=True)
        self._tree.mkdir(parents=True, exist_ok=True)
        if self._marker.exists():
            return self._marker.read_text()
        if self._repo is None:
            # A killed `git init` of an earlier launch leaves lock files.
            await asyncio.to_thread(shutil.rmtree, self._tree / ".git", ignore_errors=True)
            await self._git("init", "-q")
            await self._identify()
            await self._git("commit", "-q", "--allow-empty", "-m", "Start")
        else:
            await asyncio.to_thread(_empty, self._tree)  # An earlier launch may have been killed during its clone.
            await self._git("clone", "-q", "--", self._repo.url, ".", deadline_s=CLONE_DEADLINE_S)
            if self._repo.ref:
                await self._check_out(self._repo.ref)
            await self._identify()
        base = (await self._git("rev-parse", "HEAD")).decode().strip()
        fresh = self._marker.with_suffix(".new")
        fresh.write_text(base)
        fresh.replace(self._marker)
        return base

    def base(self) -> str | None:
        """Return the commit of the repository that the diff applies to; None if the task has no repository."""
        return self._marker.read_text() if self._repo is not None and self._marker.exists() else None

    async def diff(self) -> str:
        """Return all changes since `prepare`, committed or not, as a patch for `git apply`. Raises `GitFailed`.

        Uses a separate index file, so that the agent's own staging area does not change.
        """
        base = self._marker.read_text()
        index = self._state / "diff.index"
        agent_index = self._tree / ".git" / "index"
        if agent_index.exists():
            # With a copy of the agent's index, git reads only changed files. The copy has the time of the original:
            # git reads a file again that was changed in the same second as the index was written.
            shutil.copy2(agent_index, index)
        await self._git("add", "-A", index=index)
        patch = await self._git(*_DIFF, "--cached", base, index=index)
        with suppress(UnicodeDecodeError):
            if b"\0" not in patch:
                return patch.decode()
        return (await self._binary_diff(base, index)).decode(errors="replace")

    async def _binary_diff(self, base: str, index: Path) -> bytes:
        """Return the patch in git's binary format, which is needed if a file is not UTF-8 or contains a NUL.

        Compares two git trees instead of the work tree, so that the agent's `.gitattributes` have no effect.
        """
        attributes, empty = self._state / "attributes", self._state / "nowhere"
        attributes.write_text("* -diff\n")
        empty.mkdir(exist_ok=True)
        work = (await self._git("write-tree", index=index)).decode().strip()
        location = ["--git-dir", str(self._tree / ".git"), "--work-tree", str(empty)]
        args = [*location, "-c", f"core.attributesFile={attributes}", *_DIFF, base, work]
        return await self._git(*args, index=empty / "index", cwd=empty)

    async def _check_out(self, ref: str) -> None:
        if not (await self._has(ref) or await self._has(f"origin/{ref}")):
            raise NoSuchRef(f"the repository has no branch, tag or commit {ref}; correct the ref of the task")
        await self._git("checkout", "-q", ref, "--")

    async def _has(self, revision: str) -> bool:
        try:
            await self._git("rev-parse", "-q", "--verify", f"{revision}^{{commit}}")
        except GitRefused:
            return False
        return True

    async def _identify(self) -> None:
        """Set the author of the agent's commits, and exclude caches from the diff."""
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
                output, errors = await asyncio.gather(*(_output(git, pipe) for pipe in (git.stdout, git.stderr)))
                await git.wait()
        except TimeoutError:
            raise GitFailed(f"git {args[0]} took longer than {deadline_s:g} s and was killed") from None
        finally:
            if git.returncode is None:
                git.kill()
                await git.wait()
        if max(len(output), len(errors)) > MAX_OUTPUT_BYTES:
            raise GitFailed(f"git {args[0]} wrote more than {MAX_OUTPUT_BYTES} bytes and was killed")
        if git.returncode:
            text = errors.decode(errors="replace").strip()[-500:]
            raise GitRefused(f"git {args[0]} ended with {git.returncode}: {text}")
        return output


async def _output(git: asyncio.subprocess.Process, pipe: asyncio.StreamReader | None) -> bytes:
    """Return the output of git. Kill git if it writes more than `MAX_OUTPUT_BYTES`."""
    kept = bytearray()
    while pipe and (chunk := await pipe.read(_CHUNK_BYTES)):
        kept += chunk
        if len(kept) > MAX_OUTPUT_BYTES:
            with suppress(ProcessLookupError):
                git.kill()
            break
    return bytes(kept)


def _environment(home: Path) -> dict[str, str]:
    """Return the environment for git: no configuration of the user or system, and no prompts in a terminal."""
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
