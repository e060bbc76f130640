"""Routes of snapshots, of the deployment's configuration and of its health."""

from typing import Annotated

from daytona_api_client import CreateSandboxSnapshot, PaginatedSnapshots, SandboxState
from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from muster.daytona_double.control_plane.sandbox_routes import shown
from muster.daytona_double.requests import Named, State, answer, body_of

router = APIRouter()


@router.post("/sandbox/{id_or_name}/snapshot")
async def snapshot_sandbox(
    record: Named, state: State, body: Annotated[CreateSandboxSnapshot, Depends(body_of(CreateSandboxSnapshot))]
) -> Response:
    """Make a snapshot of a sandbox's files."""
    before, desired = record.state, record.desired
    state.sandboxes.check_settled(record)
    state.snapshots.add(body.name, record)
    state.sandboxes.change(record, SandboxState.SNAPSHOTTING, before, desired)
    return shown(record, state)


@router.get("/snapshots")
async def list_snapshots(state: State, page: int = 1, limit: int = 100, name: str = "") -> Response:
    """List snapshots, a page at a time."""
    found = [snapshot.as_dto() for snapshot in state.snapshots.all if name in snapshot.name]
    pages = max(1, -(-len(found) // limit))
    shown_now = found[(page - 1) * limit : page * limit]
    return answer(PaginatedSnapshots(items=shown_now, total=len(found), page=page, total_pages=pages))


@router.get("/snapshots/{id_or_name}")
async def get_snapshot(state: State, id_or_name: str) -> Response:
    """Return a snapshot."""
    return answer(state.snapshots.find(id_or_name).as_dto())


@router.delete("/snapshots/{id_or_name}")
async def delete_snapshot(state: State, id_or_name: str) -> Response:
    """Delete a snapshot."""
    state.snapshots.remove(id_or_name)
    return Response(status_code=200)


@router.get("/health")
async def health() -> Response:
    """Answer that the double serves."""
    return JSONResponse({"status": "ok"})
