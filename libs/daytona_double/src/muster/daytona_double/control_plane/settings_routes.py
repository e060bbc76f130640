"""Routes that change settings of a sandbox: labels, intervals, network, activity and previews."""

import secrets
from typing import Annotated

from daytona_api_client import (
    PortPreviewUrl,
    SandboxLabels,
    SignedPortPreviewUrl,
    ToolboxProxyUrl,
    UpdateSandboxNetworkSettings,
)
from fastapi import APIRouter, Depends, Response

from muster.daytona_double.control_plane.sandbox_routes import shown
from muster.daytona_double.refusals import bad_request
from muster.daytona_double.requests import DoubleState, Named, State, answer, body_of
from muster.daytona_double.sandbox_record import DoubleSandbox

router = APIRouter()
LAST_PORT = 65_535


@router.put("/sandbox/{id_or_name}/labels")
async def replace_labels(
    record: Named, state: State, body: Annotated[SandboxLabels, Depends(body_of(SandboxLabels))]
) -> Response:
    """Replace all labels of a sandbox."""
    record.settings.labels = dict(body.labels)
    state.sandboxes.note(record)
    return answer(SandboxLabels(labels=record.settings.labels))


@router.post("/sandbox/{id_or_name}/last-activity", status_code=201)
async def last_activity(record: Named, state: State) -> Response:
    """Count an activity, from which auto-stop starts again."""
    state.sandboxes.touch(record)
    return Response(status_code=201)


@router.post("/sandbox/{id_or_name}/autostop/{minutes}")
async def auto_stop(record: Named, state: State, minutes: int) -> Response:
    """Stop the sandbox after this many minutes without activity; 0 means never."""
    record.settings.auto_stop_interval = minutes
    return _changed(record, state)


@router.post("/sandbox/{id_or_name}/autopause/{minutes}")
async def auto_pause(record: Named, state: State, minutes: int) -> Response:
    """Keep the interval, which has no effect in the double."""
    record.settings.auto_pause_interval = minutes
    return _changed(record, state)


@router.post("/sandbox/{id_or_name}/autoarchive/{minutes}")
async def auto_archive(record: Named, state: State, minutes: int) -> Response:
    """Archive the sandbox this many minutes after it was stopped."""
    record.settings.auto_archive_interval = minutes
    return _changed(record, state)


@router.post("/sandbox/{id_or_name}/autodelete/{minutes}")
async def auto_delete(record: Named, state: State, minutes: int) -> Response:
    """Delete the sandbox this many minutes after it was stopped; 0 means at once, less than 0 never."""
    record.settings.auto_delete_interval = minutes
    return _changed(record, state)


@router.post("/sandbox/{id_or_name}/ttl/{minutes}")
async def time_to_live(record: Named, state: State, minutes: int) -> Response:
    """Destroy the sandbox this many minutes after its creation, whatever its state; 0 means never."""
    record.settings.ttl_minutes = minutes
    return _changed(record, state)


@router.post("/sandbox/{id_or_name}/public/{is_public}")
async def public(record: Named, state: State, *, is_public: bool) -> Response:
    """Keep whether previews are public, which has no effect in the double."""
    record.settings.public = is_public
    return _changed(record, state)


@router.post("/sandbox/{id_or_name}/network-settings")
async def network(
    record: Named,
    state: State,
    body: Annotated[UpdateSandboxNetworkSettings, Depends(body_of(UpdateSandboxNetworkSettings))],
) -> Response:
    """Keep the rules of the network, which have no effect in the double."""
    chosen = record.settings
    if body.network_block_all is not None:
        chosen.network_block_all = body.network_block_all
    if body.network_allow_list is not None:
        chosen.network_allow_list = body.network_allow_list
    if body.domain_allow_list is not None:
        chosen.domain_allow_list = body.domain_allow_list
    return _changed(record, state)


@router.get("/sandbox/{id_or_name}/ports/{port}/preview-url")
async def preview(record: Named, port: int) -> Response:
    """Return the URL of a port; commands run on this machine, so it is the port of this machine."""
    return answer(PortPreviewUrl(sandbox_id=record.id, url=_url(port), token=secrets.token_hex(16)))


@router.get("/sandbox/{id_or_name}/ports/{port}/signed-preview-url")
async def signed_preview(record: Named, port: int) -> Response:
    """Return a URL of a port that needs no header."""
    url, token = _url(port), secrets.token_hex(16)
    record.previews[token] = port
    return answer(SignedPortPreviewUrl(sandbox_id=record.id, port=port, token=token, url=url))


@router.post("/sandbox/{id_or_name}/ports/{port}/signed-preview-url/{token}/expire")
async def expire_preview(record: Named, port: int, token: str) -> Response:
    """Forget a signed URL."""
    if record.previews.pop(token, None) != port:
        raise bad_request("Invalid or expired token")
    return Response(status_code=200)


@router.get("/sandbox/{id_or_name}/toolbox-proxy-url")
async def toolbox_url(record: Named, state: State) -> Response:
    """Return the URL of the toolbox of all sandboxes, below which each has its id."""
    del record
    return answer(ToolboxProxyUrl(url=state.sandboxes.toolbox_url))


def _changed(record: DoubleSandbox, state: DoubleState) -> Response:
    state.sandboxes.note(record)
    return shown(record, state)


def _url(port: int) -> str:
    if not 1 <= port <= LAST_PORT:
        raise bad_request("Invalid port")
    return f"http://127.0.0.1:{port}"
