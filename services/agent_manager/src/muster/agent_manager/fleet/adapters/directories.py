"""Files in the directories of agents, who may put anything in the way."""

import errno
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from muster.common.faults import Conflict


def write_private(file: Path, body: bytes) -> None:
    """A file only we can read, seen whole or not at all. Raises `Conflict` where it cannot be written."""
    new = file.with_name(f".{secrets.token_hex(8)}-{file.name}.new")  # no name that could be taken before us
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(body)
        if file.is_dir():
            clear_away(file)
        new.replace(file)
    except OSError as error:
        with suppress(OSError):  # what was in the way of the file may be in the way of this
            new.unlink()
        raise Conflict(f"{file.parent} cannot be written to: {error.strerror}") from None


def make_private(place: Path) -> None:
    """A directory of ours alone, whatever its agent has made of it. Raises `OSError`."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "it was replaced by a link", str(place))
    place.chmod(stat.S_IRWXU)


def clear_away(path: Path) -> None:
    """Whatever it is, and if it is there at all. Raises `OSError`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove(home: Path) -> None:
    """Also what its agent has closed to everybody. Raises `Conflict` for what cannot be removed."""
    try:
        try:
            shutil.rmtree(home)
        except PermissionError:
            _open_up(home)
            shutil.rmtree(home)
    except OSError as error:
        if os.path.lexists(home):  # else there is none, or another was faster
            raise Conflict(f"{error.filename or home} cannot be removed: {error.strerror}") from None


def _open_up(home: Path) -> None:
    home.chmod(stat.S_IRWXU)
    for folder, names, _ in os.walk(home):
        for inner in (Path(folder, name) for name in names):
            if not inner.is_symlink():
                inner.chmod(stat.S_IRWXU)
