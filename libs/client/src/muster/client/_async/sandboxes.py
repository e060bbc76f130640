"""Calls the API's routes for sandboxes."""

import hashlib
from collections.abc import AsyncGenerator

from muster.client._async.connection import AsyncApiConnection
from muster.client.http_messages import part
from muster.common.contracts.gateway import SandboxOutput, SandboxPage, SandboxView, Verdict
from muster.common.contracts.sandbox_bodies import FileUpload, FollowedCommand, SandboxCommand
from muster.common.contracts.sandbox_commands import CommandOutput
from muster.common.contracts.sandbox_files import LARGEST_PART, FilePart, SandboxDiff, StoredPart, WorkerOutputPage
from muster.common.ids import new_id

SANDBOXES = "/api/v1/sandboxes"


class AsyncSandboxCalls:
    """The API calls about sandboxes, available as `client.sandboxes`."""

    def __init__(self, connection: AsyncApiConnection) -> None:
        self._call = connection.call

    async def list(self, task_id: str | None = None) -> SandboxPage:
        """Return all sandboxes or only the sandboxes of one task, newest first."""
        return await self._call("GET", SANDBOXES, SandboxPage, query=[("task_id", task_id)])

    async def get(self, sandbox_id: str) -> SandboxView:
        """Return the sandbox with this id."""
        return await self._call("GET", f"{SANDBOXES}/{part(sandbox_id)}", SandboxView)

    async def verify(self, sandbox_id: str) -> Verdict:
        """Check that a sandbox's log has each event number once and in order, one epoch, and nothing after its end."""
        return await self._call("GET", f"{SANDBOXES}/{part(sandbox_id)}/verify", Verdict)

    async def exec(self, sandbox_id: str, command: str, *, timeout_s: float = 30.0) -> SandboxOutput:
        """Run a shell command in the workspace of a sandbox; return its exit code and the end of its output.

        A command that takes longer than `timeout_s` seconds (at most 45) is killed, and its exit code is 124. The call
        has `timeout_s` seconds more than other calls.
        """
        body = SandboxCommand(command=command, timeout_s=timeout_s)
        path = f"{SANDBOXES}/{part(sandbox_id)}/exec"
        return await self._call("POST", path, SandboxOutput, body=body, more_s=timeout_s)

    async def start_command(self, sandbox_id: str, command: str, *, timeout_s: float = 600.0) -> CommandOutput:
        """Start a shell command in the workspace of a sandbox; return its `command_id` at once.

        A command that takes longer than `timeout_s` seconds (at most 3,500) is killed, and its exit code is 124.
        """
        body = FollowedCommand(command=command, timeout_s=timeout_s)
        return await self._call("POST", f"{SANDBOXES}/{part(sandbox_id)}/commands", CommandOutput, body=body)

    async def command_output(
        self, sandbox_id: str, command_id: str, offset: int = 0, *, follow: bool = False
    ) -> CommandOutput:
        """Return output of a started command from the byte `offset` on, and its state.

        With `follow`, the call waits up to 10 s for output.
        """
        query = [("offset", str(offset)), ("follow", "true" if follow else None)]
        return await self._call("GET", _command(sandbox_id, command_id), CommandOutput, query=query)

    async def end_command(self, sandbox_id: str, command_id: str) -> CommandOutput:
        """Kill a started command if it runs, and forget its output; return its last state."""
        return await self._call("DELETE", _command(sandbox_id, command_id), CommandOutput)

    async def write_file(self, sandbox_id: str, path: str, content: bytes) -> None:
        """Write a file into the workspace of a sandbox, completely or not at all. It may have 64 MiB.

        `path` is relative to the workspace. Missing folders are made, and an existing file is replaced.
        """
        transfer_id, digest = new_id("req"), hashlib.sha256(content).hexdigest()
        for offset in range(0, max(len(content), 1), LARGEST_PART):
            body = content[offset : offset + LARGEST_PART]
            last = offset + len(body) >= len(content)
            part_of_file = FileUpload(
                transfer_id=transfer_id, offset=offset, body=body, last=last, sha256=digest if last else None
            )
            where = f"{SANDBOXES}/{part(sandbox_id)}/files"
            await self._call("PUT", where, StoredPart, query=[("path", path)], body=part_of_file)

    async def read_file(self, sandbox_id: str, path: str) -> AsyncGenerator[bytes]:
        """Yield the parts of a file of the workspace. `path` is relative to the workspace."""
        transfer_id, offset, last = new_id("req"), 0, False
        while not last:
            query = [("path", path), ("transfer_id", transfer_id), ("offset", str(offset))]
            found = await self._call("GET", f"{SANDBOXES}/{part(sandbox_id)}/files", FilePart, query=query)
            offset, last = found.next_offset, found.last
            yield found.body

    async def output(self, sandbox_id: str, offset: int = 0, *, follow: bool = False) -> WorkerOutputPage:
        """Return output of the worker from the byte `offset` on. A negative `offset` counts from the end.

        With `follow`, the call waits up to 10 s for output.
        """
        query = [("offset", str(offset)), ("follow", "true" if follow else None)]
        return await self._call("GET", f"{SANDBOXES}/{part(sandbox_id)}/logs", WorkerOutputPage, query=query)

    async def diff(self, sandbox_id: str, at: int | None = None) -> SandboxDiff:
        """Return the recorded changes of the workspace until the event with the seq `at`, or until now."""
        query = [("at", None if at is None else str(at))]
        return await self._call("GET", f"{SANDBOXES}/{part(sandbox_id)}/diff", SandboxDiff, query=query)


def _command(sandbox_id: str, command_id: str) -> str:
    return f"{SANDBOXES}/{part(sandbox_id)}/commands/{part(command_id)}"
