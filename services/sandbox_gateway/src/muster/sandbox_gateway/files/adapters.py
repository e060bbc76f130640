"""Runs git on the record of a workspace, in the sandbox itself, because the agent may have written the record."""

import secrets
from contextlib import suppress

from muster.common.contracts.sandbox_files import LARGEST_DIFF
from muster.common.faults import Fault, NotFound, Unavailable
from muster.sandbox_gateway.providers.interface import ProcessSpec, ProcessState, Provider, SandboxLayout

MIRROR = "repo.git"
_RECORD = "record.git"
_STEPS, _BASE = "refs/muster/steps", "refs/muster/base"
_DEADLINE_S = 30.0
_BOUNDED = """
exec 3>&1
code=$({ { "$@" 2>&1; echo $? >&4; } | head -c "$0" >&3; } 4>&1)
exit "$code"
"""
"""Runs a command, keeps the first `$0` bytes of its output, and exits with the exit code of the command.

A provider keeps the end of a long output, but the beginning of a diff is wanted.
"""
_DIFF = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--full-index", "--binary")


class WorkspaceRecords:
    """Reads the commits of a workspace's record (see `muster.agent.workspace_record`)."""

    def __init__(self, provider: Provider, sandbox_id: str, layout: SandboxLayout) -> None:
        self._provider, self._sandbox_id, self._layout = provider, sandbox_id, layout

    async def steps(self) -> str:
        """Return a line with seq and commit for each recorded step."""
        listed = await self._git("for-each-ref", "--format=%(refname:lstrip=3) %(objectname)", _STEPS)
        return listed.decode(errors="replace")

    async def diff(self, commit: str) -> tuple[str, bool]:
        """Return the changes from the start of the attempt to a commit, and whether they were cut."""
        body = await self._git(*_DIFF, _BASE, commit)
        return body[:LARGEST_DIFF].decode(errors="replace"), len(body) > LARGEST_DIFF

    async def _git(self, *args: str) -> bytes:
        """Run git in the sandbox and return its output. Raises `NotFound` if the record is missing or broken."""
        mirror = self._provider.staging(self._sandbox_id) / MIRROR
        process = ProcessSpec(
            key=f"record-{secrets.token_hex(8)}",
            argv=["/bin/sh", "-c", _BOUNDED, str(LARGEST_DIFF + 1), *self._command(*args)],
            cwd=self._layout.state_dir,
            env={"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"},
            readable=[str(mirror)] if mirror.is_dir() else [],
            timeout_s=_DEADLINE_S,
        )
        ended, body = await self._ended(process)
        if ended.timed_out or ended.exit_code is None:
            raise Unavailable(f"reading the record of this workspace took longer than {_DEADLINE_S:g} s; try again")
        if ended.exit_code and len(body) <= LARGEST_DIFF:  # Git fails if the rest of its output is not read.
            why = body[-300:].decode(errors="replace").strip()
            raise NotFound(f"this workspace has no readable record: {why}", field="$.sandbox_id")
        return body

    def _command(self, *args: str) -> list[str]:
        return ["git", f"--git-dir={self._layout.state_dir}/{_RECORD}", *args]

    async def _ended(self, process: ProcessSpec) -> tuple[ProcessState, bytes]:
        """Run a process to its end, and return its state and output. Its record and output do not stay."""
        try:
            await self._provider.launch(self._sandbox_id, process)
            ended = await self._provider.wait(self._sandbox_id, process.key, deadline_s=_DEADLINE_S + 5)
            page = await self._provider.logs(self._sandbox_id, process.key, offset=0, limit=LARGEST_DIFF + 1)
        finally:
            with suppress(Fault):  # What cannot be removed now is removed with the sandbox.
                await self._provider.forget(self._sandbox_id, process.key)
        return ended, page.body
