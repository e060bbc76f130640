"""The routes below `/api/v1/sandboxes`, which list, read and verify sandboxes, and run commands in them."""

from typing import Annotated

from fastapi import Body, Query

from muster.common.contracts.gateway import (
    ExecInSandbox,
    GetSandbox,
    ListSandboxes,
    SandboxOutput,
    SandboxPage,
    SandboxView,
    Verdict,
)
from muster.common.contracts.sandbox_bodies import SandboxCommand
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.http.application_parts import Services
from muster.management_api.http.idempotency.requests import Idempotent
from muster.management_api.http.ids import SandboxId
from muster.management_api.http.openapi import BODY, refuses
from muster.management_api.http.route import routes_of
from muster.management_api.sandboxes.domain import SandboxQuery

Viewer = Annotated[Principal, requires("viewer", "sandboxes:read")]
Operator = Annotated[Principal, requires("operator", "sandboxes:write")]
_ANSWER_S = 10.0
"""Seconds for which the API waits for the gateway's reply after the longest time of the command."""

router = routes_of("/api/v1/sandboxes", "sandboxes")


@router.get("", responses=refuses(422))
async def list_sandboxes(query: Annotated[SandboxQuery, Query()], _: Viewer, services: Services) -> SandboxPage:
    """List all sandboxes, or the sandboxes of one task, newest first. Existing sandboxes come before deleted ones."""
    return await services.ask(ListSandboxes(task_id=query.task_id))


@router.get("/{sandbox_id}", responses=refuses(404, 422))
async def get_sandbox(sandbox_id: SandboxId, _: Viewer, services: Services) -> SandboxView:
    """Return the state of one sandbox, as stored by its gateway."""
    return await services.ask(GetSandbox(sandbox_id=sandbox_id))


@router.get("/{sandbox_id}/verify", responses=refuses(404, 422))
async def verify_sandbox(sandbox_id: SandboxId, _: Viewer, services: Services) -> Verdict:
    """Verify a sandbox's whole log and return the faults found.

    In a correct log each event is stored once and in order, all events have one epoch, and no event follows the log's
    end. If the log is lost, this is a fault too.
    """
    return await services.verdict(sandbox_id)


@router.post("/{sandbox_id}/exec", responses=BODY | refuses(404))
async def exec_in_sandbox(
    sandbox_id: SandboxId,
    run: Annotated[SandboxCommand, Body(examples=[{"command": "git status", "timeout_s": 10}])],
    _: Operator,
    new_id: Idempotent,
    services: Services,
) -> SandboxOutput:
    """Run a shell command in the workspace of a sandbox, with the isolation and the limits of its worker.

    The reply contains the exit code and the last 256 KiB of the command's output. A command that exceeds `timeout_s` is
    killed, and its exit code is 124.
    """
    command = ExecInSandbox(sandbox_id=sandbox_id, key=new_id("req"), command=run.command, timeout_s=run.timeout_s)
    return await services.ask(command, timeout_s=run.timeout_s + _ANSWER_S)
