"""Routes that create, find, list and change sandboxes."""

from typing import Annotated

from daytona_api_client import (
    CreateSandbox,
    ForkSandbox,
    ListSandboxesResponse,
    ResizeSandbox,
    SandboxDesiredState,
    SandboxListItem,
    SandboxState,
)
from fastapi import APIRouter, Depends, Request, Response
from pydantic import TypeAdapter, ValidationError

from muster.daytona_double.control_plane.chosen_settings import chosen_settings, forked_settings
from muster.daytona_double.refusals import Refusal, bad_request
from muster.daytona_double.requests import DoubleState, Named, State, answer, body_of
from muster.daytona_double.sandbox_record import DoubleSandbox

router = APIRouter()
MOST_LISTED, LISTED = 200, 100
_LABELS = TypeAdapter(dict[str, str])


def shown(record: DoubleSandbox, state: DoubleState) -> Response:
    """Answer with a sandbox."""
    return answer(record.as_sandbox(state.sandboxes.toolbox_url))


@router.post("/sandbox")
async def create(state: State, body: Annotated[CreateSandbox, Depends(body_of(CreateSandbox))]) -> Response:
    """Create a sandbox; from a snapshot, answer when it is started."""
    chosen = chosen_settings(body, state)
    like = None
    if chosen.snapshot:
        try:
            like = state.snapshots.find(chosen.snapshot).directory
        except Refusal:
            message = f"Snapshot {chosen.snapshot} not found. Did you add it through the Daytona Dashboard?"
            raise bad_request(message) from None
    first = SandboxState.BUILDING_SNAPSHOT if chosen.build_info else SandboxState.CREATING
    record = state.sandboxes.add(chosen, like=like, state=first)
    if not chosen.build_info:
        await state.sandboxes.wait_started(record)
    return shown(record, state)


@router.get("/sandbox")
async def list_sandboxes(
    request: Request, state: State, labels: str = "{}", limit: int = LISTED, cursor: str = "0", name: str = ""
) -> Response:
    """List sandboxes, newest first, a page at a time."""
    if not 1 <= limit <= MOST_LISTED:
        raise bad_request(f"limit must be between 1 and {MOST_LISTED}")
    try:
        wanted, before = _LABELS.validate_json(labels), int(cursor)
    except (ValidationError, ValueError):
        raise bad_request("labels must be a JSON object of strings, and cursor one that a list returned") from None
    states = set(request.query_params.getlist("states"))
    ids = set(request.query_params.getlist("id"))

    def fits(item: SandboxListItem) -> bool:
        return (
            wanted.items() <= item.labels.items()
            and (not states or (item.state or SandboxState.UNKNOWN).value in states)
            and (not ids or item.id in ids)
            and item.name.startswith(name)
        )

    found = [
        (number, item) for number, item in state.sandboxes.listed() if fits(item) and (not before or number < before)
    ]
    found.reverse()
    page = found[:limit]
    following = str(page[-1][0]) if len(found) > limit else None
    return answer(ListSandboxesResponse(items=[item for _, item in page], next_cursor=following))


@router.get("/sandbox/{id_or_name}")
async def get(record: Named, state: State) -> Response:
    """Return a sandbox."""
    return shown(record, state)


@router.delete("/sandbox/{id_or_name}")
async def delete(record: Named, state: State) -> Response:
    """Begin to delete a sandbox."""
    state.sandboxes.change(record, SandboxState.DESTROYING, SandboxState.DESTROYED)
    return shown(record, state)


@router.post("/sandbox/{id_or_name}/start")
async def start(record: Named, state: State) -> Response:
    """Start a sandbox that is stopped, archived or paused, and answer when it is started."""
    through = {
        SandboxState.STOPPED: SandboxState.STARTING,
        SandboxState.ARCHIVED: SandboxState.RESTORING,
        SandboxState.PAUSED: SandboxState.RESUMING,
    }
    state.sandboxes.check_settled(record)
    if record.state is not SandboxState.STARTED:
        if record.state not in through:
            raise bad_request("Sandbox is not in valid state")
        state.sandboxes.check_quota(record.settings.cpu)
        state.sandboxes.change(record, through[record.state], SandboxState.STARTED)
        await state.sandboxes.wait_started(record)
    return shown(record, state)


@router.post("/sandbox/{id_or_name}/stop")
async def stop(record: Named, state: State) -> Response:
    """Begin to stop a sandbox. Its processes are killed, and its files stay."""
    _leave(record, state, SandboxState.STARTED, SandboxState.STOPPING, SandboxState.STOPPED)
    return shown(record, state)


@router.post("/sandbox/{id_or_name}/archive")
async def archive(record: Named, state: State) -> Response:
    """Begin to archive a stopped sandbox."""
    if record.settings.auto_delete_interval == 0:
        raise bad_request("Ephemeral sandboxes cannot be archived")
    _leave(record, state, SandboxState.STOPPED, SandboxState.ARCHIVING, SandboxState.ARCHIVED)
    return shown(record, state)


@router.post("/sandbox/{id_or_name}/pause")
async def pause(record: Named, state: State) -> Response:
    """Begin to pause a sandbox: its processes stand still until it is started."""
    _leave(record, state, SandboxState.STARTED, SandboxState.PAUSING, SandboxState.PAUSED)
    return shown(record, state)


@router.post("/sandbox/{id_or_name}/recover")
async def recover(record: Named, state: State) -> Response:
    """Start a sandbox again that is in a recoverable error."""
    if record.state is not SandboxState.ERROR or not record.recoverable:
        raise bad_request("Sandbox is not in a recoverable error state")
    state.sandboxes.change(record, SandboxState.STARTING, SandboxState.STARTED)
    await state.sandboxes.wait_started(record)
    return shown(record, state)


@router.post("/sandbox/{id_or_name}/fork")
async def fork(record: Named, state: State, body: Annotated[ForkSandbox, Depends(body_of(ForkSandbox))]) -> Response:
    """Create a sandbox with a copy of another one's files."""
    state.sandboxes.check_settled(record)
    made = state.sandboxes.add(forked_settings(record, body.name), like=record.directory, state=SandboxState.FORKING)
    return shown(made, state)


@router.post("/sandbox/{id_or_name}/resize")
async def resize(
    record: Named, state: State, body: Annotated[ResizeSandbox, Depends(body_of(ResizeSandbox))]
) -> Response:
    """Change the resources of a sandbox, which the double only shows."""
    state.sandboxes.change(record, SandboxState.RESIZING, record.state, SandboxDesiredState.RESIZED)
    chosen = record.settings
    chosen.cpu, chosen.memory, chosen.disk = (
        body.cpu or chosen.cpu,
        body.memory or chosen.memory,
        body.disk or chosen.disk,
    )
    return shown(record, state)


def _leave(
    record: DoubleSandbox, state: DoubleState, needed: SandboxState, through: SandboxState, to: SandboxState
) -> None:
    state.sandboxes.check_settled(record)
    if record.state is not needed:
        raise bad_request(f"Sandbox is not {needed.value}")
    state.sandboxes.change(record, through, to)
