"""Calls the API's routes for sandboxes."""

from muster.client._async.connection import AsyncApiConnection
from muster.client.http_messages import part
from muster.common.contracts.gateway import SandboxOutput, SandboxPage, SandboxView, Verdict
from muster.common.contracts.sandbox_bodies import SandboxCommand

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
