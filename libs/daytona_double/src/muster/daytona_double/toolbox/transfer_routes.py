"""Routes that upload and download files as multipart bodies.

An upload writes to a temporary file and renames it, so that a broken upload leaves no part of a file. A download
answers one part for each file; a part named `error` says why a file is missing.
"""

import json
import os
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from daytona_toolbox_api_client import FilesDownloadRequest, FsFileResult, UploadFilesResponse
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse
from starlette.datastructures import UploadFile

from muster.daytona_double.admission import Started, abort
from muster.daytona_double.refusals import Refusal, daemon
from muster.daytona_double.requests import DoubleState, State, answer, body_of
from muster.daytona_double.sandbox_record import DoubleSandbox
from muster.daytona_double.toolbox.sandbox_paths import existing, place

router = APIRouter(prefix="/{sandbox_id}/files")
BOUNDARY = "DAYTONA-FILE-BOUNDARY"
_CHUNK = 65_536


@router.post("/bulk-upload")
async def bulk_upload(record: Started, request: Request, state: State) -> Response:
    """Write the files of a multipart body: for each a field `files[i].path`, and then a file `files[i].file`."""
    if await _cut(request, state, record):
        return Response()
    share = 0.5 if state.faults.take("short-upload", sandbox=record.names) else 1.0
    paths: dict[str, str] = {}
    written: list[FsFileResult] = []
    errors: list[str] = []
    async with request.form(max_files=10_000, max_fields=10_000) as form:
        for name, value in form.multi_items():
            index = name.removeprefix("files[").partition("]")[0]
            if name.endswith(".path") and isinstance(value, str):
                paths[index] = value.strip()
            elif name.endswith(".file") and index not in paths:
                errors.append(f"file[{index}]: missing .path metadata")
            elif name.endswith(".file"):
                try:
                    size = await _write(_destination(record, paths[index]), value, share)
                    written.append(FsFileResult(path=paths[index], bytes=size))
                except (OSError, Refusal) as error:
                    errors.append(f"{paths[index]}: {error}")
    return answer(UploadFilesResponse(files=written, errors=errors or None), 400 if errors else 200)


@router.post("/bulk-download")
async def bulk_download(
    record: Started,
    request: Request,
    state: State,
    body: Annotated[FilesDownloadRequest, Depends(body_of(FilesDownloadRequest))],
) -> Response:
    """Return files as a multipart body."""
    if not body.paths:
        raise daemon(400, 'request body must be {"paths": [ ... ]} and non-empty', "INVALID_REQUEST_BODY")
    if state.faults.take("download-502", sandbox=record.names):
        return HTMLResponse("<html><body><h1>502 Bad Gateway</h1></body></html>", 502)
    cut = request if state.faults.take("cut-download", sandbox=record.names) else None
    media_type = f"multipart/form-data; boundary={BOUNDARY}"
    return StreamingResponse(_parts(record, body.paths, cut=cut), media_type=media_type)


@router.get("/download")
async def download(record: Started, path: str) -> Response:
    """Return one file."""
    found = existing(record, path)
    if found.is_dir():
        raise daemon(400, "path must be a file", "INVALID_FILE_PATH")
    return FileResponse(found, media_type="application/octet-stream")


async def _cut(request: Request, state: DoubleState, record: DoubleSandbox) -> bool:
    """Close the connection after half of the body, if the fault `cut-upload` strikes; return whether it did."""
    if not state.faults.take("cut-upload", sandbox=record.names):
        return False
    half, received = int(request.headers.get("content-length", 2)) // 2, 0
    async for piece in request.stream():
        received += len(piece)
        if received >= half:
            break
    await abort(request)
    return True


def _destination(record: DoubleSandbox, path: str) -> Path:
    """Return the file to write; for a link the file that it names, so that the link stays a link."""
    return place(record, path).resolve()


async def _write(path: Path, source: UploadFile | str, share: float) -> int:
    """Write this share of an uploaded file, and return the size of the whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = source.file if isinstance(source, UploadFile) else None
    temporary = path.with_name(f".daytona-upload-{secrets.token_hex(4)}")
    size = 0
    try:
        with temporary.open("wb") as file:
            if content is None:
                assert isinstance(source, str)
                size = file.write(source.encode())
            else:
                while piece := content.read(_CHUNK):
                    size += file.write(piece)
            file.truncate(int(size * share))
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return size


async def _parts(record: DoubleSandbox, paths: list[str], *, cut: Request | None) -> AsyncGenerator[bytes]:
    for path in paths:
        try:
            found = existing(record, path)
            if not found.is_file():
                raise daemon(400, f"not a file: {path}", "INVALID_FILE_PATH")
            file = found.open("rb")
        except (OSError, Refusal) as error:
            yield _part("error", path, "application/json", None) + _error(error) + b"\r\n"
            continue
        with file:
            size = os.fstat(file.fileno()).st_size
            yield _part("file", path, "application/octet-stream", size)
            if cut:
                yield file.read(size // 2)
                await abort(cut)
                return
            while piece := file.read(_CHUNK):
                yield piece
            yield b"\r\n"
    yield f"--{BOUNDARY}--\r\n".encode()


def _part(name: str, path: str, media_type: str, size: int | None) -> bytes:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    plain = path.isascii()
    filename = f'filename="{escaped}"' if plain else f"filename*=UTF-8''{quote(path, safe='')}"
    length = "" if size is None else f"Content-Length: {size}\r\n"
    head = f'Content-Disposition: form-data; name="{name}"; {filename}\r\nContent-Type: {media_type}\r\n{length}'
    return f"--{BOUNDARY}\r\n{head}\r\n".encode()


def _error(error: Exception) -> bytes:
    refusal = error if isinstance(error, Refusal) else daemon(403, str(error), "FILE_ACCESS_DENIED")
    body = {"message": refusal.message, "statusCode": refusal.status, "code": refusal.code, "source": refusal.source}
    return json.dumps(body).encode()
