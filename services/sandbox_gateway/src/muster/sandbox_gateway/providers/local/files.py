"""Writes and reads single files in a sandbox's directories on the gateway's host.

A process in the sandbox may replace each directory and file below by a link, a pipe or a device at any moment. So each
component of a path is opened relative to its parent, no link is followed, and only regular files are read.
"""

import asyncio
import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from muster.common.faults import InvalidMessage, NotFound

CHUNK = 256 << 10
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = "$.path"


async def write(home: Path, path: str, directories: Sequence[str], chunks: AsyncIterator[bytes]) -> None:
    """Write a file, completely or not at all. Its directories are made, and an existing file is replaced.

    Raises `InvalidMessage` if `path` does not lie below one of the `directories` in `home`, or leads over a link.
    """
    folders, name = _parts(home, path, directories)
    folder = await asyncio.to_thread(_opened, home, folders, make=True)
    fresh = f".{name[:100]}.{secrets.token_hex(4)}.part"
    try:
        descriptor = os.open(fresh, _NEW, 0o600, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
            os.replace(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(fresh, dir_fd=folder)
            raise
    except IsADirectoryError:
        raise InvalidMessage(f"{path[:200]!r} is a directory; name a file", field=_PATH) from None
    finally:
        os.close(folder)


async def read(home: Path, path: str, directories: Sequence[str]) -> AsyncIterator[bytes]:
    """Yield the content of a regular file. Raises `NotFound` if there is none, and `InvalidMessage` as `write`."""
    folders, name = _parts(home, path, directories)
    try:
        folder = await asyncio.to_thread(_opened, home, folders, make=False)
        try:
            descriptor = os.open(name, _FILE, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError:
        raise NotFound(f"there is no file {path[:200]!r} in this sandbox", field=_PATH) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotFound(f"{path[:200]!r} is not a regular file", field=_PATH)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk


async def remove(home: Path, path: str, directories: Sequence[str]) -> None:
    """Remove a file. Does nothing if there is none. Raises `InvalidMessage` as `write`."""
    folders, name = _parts(home, path, directories)
    with suppress(OSError):
        folder = await asyncio.to_thread(_opened, home, folders, make=False)
        try:
            os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)


def _parts(home: Path, path: str, directories: Sequence[str]) -> tuple[list[str], str]:
    """Return the names of the directories below `home` on the way to a file, and the file's name."""
    pure = PurePosixPath(path)
    if "\0" in path or ".." in pure.parts or not pure.is_relative_to(home):
        raise InvalidMessage(f"{path[:200]!r} is no path in this sandbox", field=_PATH)
    names = pure.relative_to(home).parts
    if len(names) <= 1 or names[0] not in directories:
        raise InvalidMessage(f"{path[:200]!r} is no path of a file in a directory of this sandbox", field=_PATH)
    return list(names[:-1]), names[-1]


def _opened(home: Path, folders: list[str], *, make: bool) -> int:
    """Open the directory below `home` with these names, and make it if `make` is set. Follows no link."""
    folder, name = os.open(home, _FOLDER), home.name
    try:
        for name in folders:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=folder)
            below = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
    except OSError as error:
        os.close(folder)
        if make and error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise InvalidMessage(f"{name!r} on the way to this file is a file or a link", field=_PATH) from None
        raise
    return folder
