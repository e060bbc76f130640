"""A program that the gateway uploads into a Daytona sandbox. It checks, places and reads files there.

It uses only Python's standard library. Each command prints one line with JSON after a mark.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tarfile
from typing import Any

MARK = "muster-sandbox-agent:"
_DEEPEST = 8


def place(part: str, sha256: str, target: str) -> dict[str, Any]:
    """Move an uploaded file to its path, if its content is complete and the path is that of a file, without links."""
    if not os.path.exists(part) or _digest(part) != sha256:
        return {"done": False}
    if not _is_linked(target):
        with contextlib.suppress(NotADirectoryError, FileExistsError, IsADirectoryError):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(part, target)
            return {"done": True}
    os.unlink(part)
    return {"done": False, "unfit": True}


def unpack(archive: str, sha256: str, target: str) -> dict[str, Any]:
    """Unpack an uploaded archive into a directory, if its content is complete. An unpacked directory is kept."""
    if os.path.isdir(target):
        return {"done": True}
    if not os.path.exists(archive) or _digest(archive) != sha256:
        return {"done": False}
    fresh = f"{target}.{os.getpid()}"
    with tarfile.open(archive) as packed:
        packed.extractall(fresh, filter="data")
    try:
        os.rename(fresh, target)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
    os.unlink(archive)
    return {"done": os.path.isdir(target)}


def describe(path: str) -> dict[str, Any]:
    """Return the hash of a regular file. Follows no link."""
    if not os.path.isfile(path) or os.path.islink(path) or _is_linked(path):
        return {"file": False}
    return {"file": True, "sha256": _digest(path)}


def discard(path: str) -> dict[str, Any]:
    """Remove a file. Does nothing if there is none."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return {"done": True}


def forget(folder: str) -> dict[str, Any]:
    """Remove the directory of an ended process. Does nothing if there is none."""
    shutil.rmtree(folder, ignore_errors=True)
    return {"done": not os.path.lexists(folder)}


def events(state: str) -> dict[str, Any]:
    """Count the events that a worker has stored: event files of OpenHands, or lines of `events.jsonl`."""
    found, at_all = 0, False
    for folder, folders, files in os.walk(state):
        if folder[len(state) :].count(os.sep) >= _DEEPEST:
            folders[:] = []
        if os.path.basename(folder) == "events":
            named = [name for name in files if name.startswith("event-") and name.endswith(".json")]
            found, at_all = found + len(named), at_all or bool(named)
    journal = os.path.join(state, "events.jsonl")
    if not at_all and os.path.isfile(journal) and os.path.getsize(journal) <= 64 << 20:
        with open(journal, "rb") as file:
            found, at_all = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")), True
    return {"events": found if at_all else None}


def make(*folders: str) -> dict[str, Any]:
    """Make directories that only this user can read."""
    for folder in folders:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    return {"done": True}


def _is_linked(path: str) -> bool:
    """Return whether a directory on the way from the gateway's directory to a path is a link."""
    root = os.path.dirname(os.path.abspath(__file__))
    folder = os.path.dirname(path)
    return os.path.realpath(folder) != os.path.join(os.path.realpath(root), os.path.relpath(folder, root))


def _digest(path: str) -> str:
    summed = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            summed.update(chunk)
    return summed.hexdigest()


COMMANDS = {command.__name__: command for command in (place, unpack, describe, discard, forget, events, make)}

if __name__ == "__main__":
    print(MARK + json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])), flush=True)
