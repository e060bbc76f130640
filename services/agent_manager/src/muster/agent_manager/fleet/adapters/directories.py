"""Writes and deletes files in directories of agents. Agents are not trusted: they may put links in the directories."""

import errno
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from muster.common.faults import Conflict


def write_private(file: Path, body: bytes) -> None:
    """Write a file that only this user can read, completely or not at all. Raises `Conflict` if the write fails."""
    # The name is random, so the agent cannot have created a file with this name before.
    new = file.with_name(f".{secrets.token_hex(8)}-{file.name}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(body)
        if file.is_dir():
            clear_away(file)
        new.replace(file)
    except OSError as error:
        with suppress(OSError):  # Deleting the temporary file may fail for the same reason as writing the file.
            new.unlink()
        raise Conflict(f"directory {file.parent} cannot be written to: {error.strerror}") from None


def make_private(place: Path) -> None:
    """Create a directory, or change an existing one, so that only this user can read it. Raises `OSError`."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "the agent replaced its directory by a link", str(place))
    place.chmod(stat.S_IRWXU)


def clear_away(path: Path) -> None:
    """Delete a file, a link or a whole directory, if it exists. Raises `OSError`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove(home: Path) -> None:
    """Delete the directory of an agent, even if the agent has removed permissions inside the directory.

    Raises `Conflict` if a file or directory cannot be removed.
    """
    try:
        try:
            shutil.rmtree(home)
        except PermissionError:
            _open_up(home)
            shutil.rmtree(home)
    except OSError as error:
        if os.path.lexists(home):  # A missing directory is no error: another process may have deleted it first.
            raise Conflict(f"path {error.filename or home} cannot be removed: {error.strerror}") from None


def _open_up(home: Path) -> None:
    home.chmod(stat.S_IRWXU)
    for folder, names, _ in os.walk(home):
        for inner in (Path(folder, name) for name in names):
            if not inner.is_symlink():
                inner.chmod(stat.S_IRWXU)
