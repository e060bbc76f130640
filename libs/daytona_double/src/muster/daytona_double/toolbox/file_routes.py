"""Routes that list, find, move and delete files, and change their permissions."""

import grp
import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

from daytona_toolbox_api_client import (
    FileInfo,
    Match,
    ReplaceRequest,
    ReplaceResult,
    SearchFilesResponse,
    UpdateEnvRequest,
    UserHomeDirResponse,
    WorkDirResponse,
)
from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from muster.daytona_double.admission import Started
from muster.daytona_double.clock import rfc3339
from muster.daytona_double.refusals import daemon
from muster.daytona_double.requests import answer, answers, body_of
from muster.daytona_double.toolbox.sandbox_paths import existing, place

router = APIRouter(prefix="/{sandbox_id}")


@router.get("/work-dir")
async def work_dir(record: Started) -> Response:
    """Return the working directory."""
    return answer(WorkDirResponse(dir=str(record.workdir)))


@router.get("/user-home-dir")
async def user_home_dir(record: Started) -> Response:
    """Return the home directory of the sandbox's user."""
    return answer(UserHomeDirResponse(dir=str(record.home)))


@router.get("/version")
async def version(record: Started) -> Response:
    """Return the version of the daemon."""
    del record
    return JSONResponse({"version": "double"})


@router.post("/env")
async def update_env(
    record: Started, body: Annotated[UpdateEnvRequest, Depends(body_of(UpdateEnvRequest))]
) -> Response:
    """Change the environment variables of processes that start later."""
    for name in body.unset or ():
        record.settings.env.pop(name, None)
    record.settings.env.update(body.set or {})
    return JSONResponse({"message": "environment updated"})


@router.get("/files")
async def list_files(record: Started, path: str = ".", depth: int = 1) -> Response:
    """List a directory, and its directories down to `depth`."""
    top = existing(record, path)
    if not top.is_dir():
        raise daemon(400, f"not a directory: {path}", "INVALID_FILE_PATH")
    return answers([_shown(found) for found in _walk(top, depth)])


@router.get("/files/info")
async def file_info(record: Started, path: str) -> Response:
    """Return the size, times, mode and owner of a file."""
    return answer(_shown(existing(record, path)))


@router.post("/files/folder", status_code=201)
async def create_folder(record: Started, path: str, mode: str = "0755") -> Response:
    """Create a directory and those above it."""
    folder = place(record, path)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(_mode(mode))
    return Response(status_code=201)


@router.delete("/files", status_code=204)
async def delete_file(record: Started, path: str, *, recursive: bool = False) -> Response:
    """Delete a file, or with `recursive` a directory."""
    found = existing(record, path)
    if found.is_dir() and not found.is_symlink():
        if not recursive:
            raise daemon(400, "cannot delete directory without recursive flag", "BAD_REQUEST")
        shutil.rmtree(found)
    else:
        found.unlink()
    return Response(status_code=204)


@router.post("/files/move")
async def move_file(record: Started, source: str, destination: str) -> Response:
    """Move or rename a file. A destination that exists is refused with 409."""
    target = place(record, destination)
    if target.exists():
        raise daemon(409, f"destination already exists: {destination}", "CONFLICT")
    if not target.parent.is_dir():
        raise daemon(404, f"file not found: {destination}", "FILE_NOT_FOUND")
    shutil.move(existing(record, source), target)
    return Response(status_code=200)


@router.post("/files/permissions")
async def set_permissions(
    record: Started, path: str, mode: str | None = None, owner: str | None = None, group: str | None = None
) -> Response:
    """Change the mode, owner and group of a file."""
    found = existing(record, path)
    if mode:
        found.chmod(_mode(mode))
    if owner or group:
        try:
            shutil.chown(found, owner or None, group or None)  # pyright: ignore[reportArgumentType, reportCallIssue]
        except (LookupError, PermissionError) as error:
            raise daemon(400, f"failed to change owner: {error}", "BAD_REQUEST") from error
    return Response(status_code=200)


@router.get("/files/find")
async def find_in_files(record: Started, path: str, pattern: str) -> Response:
    """Find the lines of all files below `path` that contain `pattern`."""
    found: list[Match] = []
    for file in _files(existing(record, path)):
        with suppress(UnicodeDecodeError, OSError):
            for number, line in enumerate(file.read_text().splitlines(), 1):
                if pattern in line:
                    found.append(Match(file=str(file), line=number, content=line))
    return answers(found)


@router.get("/files/search")
async def search_files(record: Started, path: str, pattern: str) -> Response:
    """Find the files below `path` whose name fits the pattern."""
    found = [str(file) for file in _files(existing(record, path)) if fnmatch(file.name, pattern)]
    return answer(SearchFilesResponse(files=found))


@router.post("/files/replace")
async def replace_in_files(
    record: Started, body: Annotated[ReplaceRequest, Depends(body_of(ReplaceRequest))]
) -> Response:
    """Replace a text in files."""
    results: list[ReplaceResult] = []
    for path in body.files:
        file = existing(record, path)
        file.write_text(file.read_text().replace(body.pattern, body.new_value))
        results.append(ReplaceResult(file=path, success=True))
    return answers(results)


def _walk(top: Path, depth: int) -> Iterator[Path]:
    for found in sorted(top.iterdir()):
        yield found
        if depth > 1 and found.is_dir() and not found.is_symlink():
            yield from _walk(found, depth - 1)


def _files(top: Path) -> Iterator[Path]:
    if top.is_file():
        yield top
        return
    for directory, _, names in os.walk(top):
        for name in sorted(names):
            yield Path(directory) / name


def _shown(path: Path) -> FileInfo:
    found = path.lstat()
    modified = datetime.fromtimestamp(found.st_mtime, UTC)
    return FileInfo(
        name=path.name,
        path=str(path),
        is_dir=stat.S_ISDIR(found.st_mode),
        size=found.st_size,
        mode=stat.filemode(found.st_mode),
        permissions=f"{stat.S_IMODE(found.st_mode):04o}",
        mod_time=modified.strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
        modified_at=rfc3339(modified),
        owner=_name_of(found.st_uid, user=True),
        group=_name_of(found.st_gid, user=False),
    )


def _name_of(number: int, *, user: bool) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name if user else grp.getgrgid(number).gr_name
    return str(number)


def _mode(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise daemon(400, "invalid mode", "BAD_REQUEST") from None
