"""Files in the directories of agents. The agent is hostile: it may have put links or other files in the way."""

import errno
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from muster.common.faults import Conflict


def write_private(file: Path, body: bytes) -> None:
    """Write a file that only this user can read, whole or not at all. Raises `Conflict` if it cannot be written."""
    new = file.with_name(
        f".{secrets.token_hex(8)}-{file.name}.new"
    )  # a random name, which the agent cannot have created before
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(body)
        if file.is_dir():
            clear_away(file)
        new.replace(file)
    except OSError as error:
        with suppress(OSError):  # what stopped the rename may also stop this removal
            new.unlink()
        raise Conflict(f"{file.parent} cannot be written to: {error.strerror}") from None


def make_private(place: Path) -> None:
    """Create a directory that only this user can read, whatever its agent has made of it. Raises `OSError`."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "it was replaced by a link", str(place))
    place.chmod(stat.S_IRWXU)


def clear_away(path: Path) -> None:
    """Remove a file, link or directory if it exists. Raises `OSError`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove(home: Path) -> None:
    """Remove a directory, also where its agent has withdrawn permissions.

    Raises `Conflict` if something cannot be removed.
    """
    try:
        try:
            shutil.rmtree(home)
        except PermissionError:
            _open_up(home)
            shutil.rmtree(home)
    except OSError as error:
        if os.path.lexists(home):  # it does not exist, or another process removed it first
            raise Conflict(f"{error.filename or home} cannot be removed: {error.strerror}") from None


def _open_up(home: Path) -> None:
    home.chmod(stat.S_IRWXU)
    for folder, names, _ in os.walk(home):
        for inner in (Path(folder, name) for name in names):
            if not inner.is_symlink():
                inner.chmod(stat.S_IRWXU)
