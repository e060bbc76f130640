"""The Python client of the management API. Each call has a deadline and raises `ApiCallError` if it fails."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Self

from muster.cli.client.access import AccessRoutes
from muster.cli.client.agents import AgentRoutes
from muster.cli.client.connection import ApiConnection, Query, part
from muster.cli.client.sse import ServerSentEvent
from muster.common.contracts.gateway import SandboxPage, SandboxView, Verdict
from muster.common.contracts.guardian import GuardianReport, InterventionView
from muster.common.contracts.health import Health
from muster.common.contracts.tasks import TaskPage, TaskView

DEADLINE_S = 15.0
"""Default time limit of one call, in seconds."""


class ApiClient:
    """A client of one API, for use with `async with`.

    Its methods call the routes for tasks, sandboxes, the guardian and health. `fleet` has the routes for agents,
    `identity` those for keys and users, and `connection` sends any other request.
    """

    def __init__(self, url: str, key: str, *, deadline_s: float = DEADLINE_S) -> None:
        self.connection = ApiConnection(url, key, deadline_s=deadline_s)
        self.fleet, self.identity = AgentRoutes(self.connection), AccessRoutes(self.connection)
        self._call = self.connection.call

    async def __aenter__(self) -> Self:
        await self.connection.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.connection.__aexit__(*exception)

    async def submit(self, objective: str, **fields: Any) -> TaskView:  # noqa: ANN401 - SubmitTask's fields, validated there
        """Queue a task; `fields` are the other fields of `SubmitTask`."""
        return await self._call("POST", "/api/v1/tasks", TaskView, body={"objective": objective, **fields})

    async def tasks(
        self,
        *,
        state: str | None = None,
        project: str | None = None,
        labels: Mapping[str, str] = {},
        limit: int = 50,
        cursor: str | None = None,
    ) -> TaskPage:
        """Return one page of the matching tasks, newest first."""
        query: Query = [
            *(("state", state), ("project", project)),
            *(("label", f"{name}={value}") for name, value in labels.items()),
            *(("limit", limit), ("cursor", cursor)),
        ]
        return await self._call("GET", "/api/v1/tasks", TaskPage, query=query)

    async def get(self, task_id: str) -> TaskView:
        """Return a task with its attempts."""
        return await self._call("GET", f"/api/v1/tasks/{part(task_id)}", TaskView)

    async def cancel(self, task_id: str, reason: str | None = None) -> TaskView:
        """Cancel a task; a cancelled task cannot be resumed."""
        body = {"reason": reason} if reason else {}
        return await self._call("POST", f"/api/v1/tasks/{part(task_id)}/cancel", TaskView, body=body)

    async def steer(self, task_id: str, text: str, *, urgent: bool = False) -> InterventionView:
        """Send a steering message to the agent that works on a task; `urgent` interrupts its current action."""
        body = {"text": text, "urgent": urgent}
        return await self._call("POST", f"/api/v1/tasks/{part(task_id)}/steer", InterventionView, body=body)

    async def report(self, task_id: str) -> GuardianReport:
        """Return the guardian's findings and the interventions in a task."""
        return await self._call("GET", f"/api/v1/tasks/{part(task_id)}/guardian", GuardianReport)

    async def sandboxes(self, task_id: str | None = None) -> SandboxPage:
        """Return all sandboxes, or only those of one task."""
        return await self._call("GET", "/api/v1/sandboxes", SandboxPage, query=[("task_id", task_id)])

    async def sandbox(self, sandbox_id: str) -> SandboxView:
        """Return a sandbox."""
        return await self._call("GET", f"/api/v1/sandboxes/{part(sandbox_id)}", SandboxView)

    async def verify(self, sandbox_id: str) -> Verdict:
        """Check the whole log of a sandbox: each seq once and in order, one epoch, nothing after its end."""
        return await self._call("GET", f"/api/v1/sandboxes/{part(sandbox_id)}/verify", Verdict)

    async def health(self) -> Health:
        """Return the health of the API and of each service that the API depends on."""
        return await self._call("GET", "/api/health", Health)

    def events(self, task_id: str, after: str | None = None, *, follow: bool = True) -> AsyncGenerator[ServerSentEvent]:
        """Yield the events of a task after the position `after`, until the task ends; see `ApiConnection.feed`."""
        return self.connection.feed(f"/api/v1/tasks/{part(task_id)}/events", after, follow=follow)
