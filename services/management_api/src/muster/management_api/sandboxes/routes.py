"""`/api/v1/sandboxes`: list, read and verify sandboxes."""

from typing import Annotated

from fastapi import Query

from muster.common.contracts.gateway import GetSandbox, ListSandboxes, SandboxPage, SandboxView, Verdict
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.http.ids import SandboxId
from muster.management_api.http.openapi import refuses
from muster.management_api.http.parts import Services
from muster.management_api.http.route import routes_of
from muster.management_api.sandboxes.domain import SandboxQuery

Viewer = Annotated[Principal, requires("viewer", "sandboxes:read")]

router = routes_of("/api/v1/sandboxes", "sandboxes")


@router.get("", responses=refuses(422))
async def list_sandboxes(query: Annotated[SandboxQuery, Query()], _: Viewer, services: Services) -> SandboxPage:
    """List all sandboxes, or those of one task, newest first."""
    return await services.ask(ListSandboxes(task_id=query.task_id))


@router.get("/{sandbox_id}", responses=refuses(404, 422))
async def get_sandbox(sandbox_id: SandboxId, _: Viewer, services: Services) -> SandboxView:
    """Return one sandbox as its gateway knows it."""
    return await services.ask(GetSandbox(sandbox_id=sandbox_id))


@router.get("/{sandbox_id}/verify", responses=refuses(404, 422))
async def verify_sandbox(sandbox_id: SandboxId, _: Viewer, services: Services) -> Verdict:
    """Verify the whole log: each seq once and in order, one epoch, nothing after the end.

    A log that is gone although the sandbox had one is a fault.
    """
    return await services.verdict(sandbox_id)
