"""Counts the events in a sandbox's directories, and removes these directories.

The worker controls the contents of these directories. They may be very deep or very large, and a file may be a link,
a pipe or a device. So every search of a directory is limited, and no link is followed.
"""

import asyncio
import os
import re
import stat
from contextlib import closing
from pathlib import Path

from muster.common.faults import Fault, TooLarge, Unavailable

REMOVE_S = 60.0
_LARGEST_JOURNAL = 64 << 20
_MOST_ENTRIES = 500_000
_DEEPEST = 8
"""Most levels of directories that are searched. Agents store their events at most four levels down."""
_CHUNK = 1 << 20
_EVENT = re.compile(r"event-.*\.json", re.DOTALL)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotAFile(Fault):
    """A file in a sandbox's directory that should be a regular file is a pipe or a device."""


def count_events(state: Path) -> int | None:
    """Count a worker's stored events in the directory `state`: event files of OpenHands, or lines of `events.jsonl`.

    Returns None if there are neither event files nor `events.jsonl`. Follows no link and never blocks on a pipe. Raises
    `Fault` or `OSError` if the events cannot be counted.
    """
    try:
        folder = os.open(state, _FOLDER)
    except FileNotFoundError:
        return None
    try:
        return _Count().files(folder, state.name) or _lines("events.jsonl", folder)
    finally:
        os.close(folder)


class _Count:
    """One limited search of directories. Opens each directory relative to its parent, so that a link is refused."""

    def __init__(self) -> None:
        self._entries = 0

    def files(self, folder: int, name: str, depth: int = 0) -> int:
        found = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                self._entries += 1
                if self._entries > _MOST_ENTRIES:
                    raise TooLarge(
                        f"the sandbox's state directory has over {_MOST_ENTRIES} files, so its events cannot be counted"
                    )
                if entry.is_dir(follow_symlinks=False):
                    found += self._below(folder, entry.name, depth)
                elif name == "events" and entry.is_file(follow_symlinks=False):
                    found += bool(_EVENT.fullmatch(entry.name))
        return found

    def _below(self, folder: int, name: str, depth: int) -> int:
        if depth == _DEEPEST:
            return 0
        try:
            below = os.open(name, _FOLDER, dir_fd=folder)
        except FileNotFoundError:  # a running worker may remove directories during the search
            return 0
        try:
            return self.files(below, name, depth + 1)
        finally:
            os.close(below)


def _lines(name: str, folder: int) -> int | None:
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        return None
    with closing(os.fdopen(descriptor, "rb", buffering=0)) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFile(f"{name} in the sandbox's state directory is not a regular file")
        lines = size = 0
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > _LARGEST_JOURNAL:
                raise TooLarge(
                    f"{name} in the sandbox's state directory has over {_LARGEST_JOURNAL} bytes, "
                    "so the worker's events cannot be counted"
                )
            lines += chunk.count(b"\n")
    return lines


async def remove(home: Path, *, within_s: float = REMOVE_S) -> None:
    """Remove a sandbox's directory with all its contents.

    Raises `Unavailable` if that fails or takes over `within_s` seconds; the caller must then try again. Uses the
    programs `rm` and `chmod`, because Python's functions recurse and fail on very deep directories. Both programs
    follow no links inside of the directory.
    """
    try:
        async with asyncio.timeout(within_s):
            # The first `rm` fails if the worker has removed permissions of its directories.
            if await _ended("rm", "-rf", "--", str(home)):
                await _ended("chmod", "-R", "-f", "u+rwX", "--", str(home))
                if code := await _ended("rm", "-rf", "--", str(home)):
                    raise Unavailable(
                        f"sandbox directory {home.name} not removed: rm ended with {code}; the gateway tries again"
                    )
    except TimeoutError:
        raise Unavailable(
            f"sandbox directory {home.name} not removed within {within_s:g} s; the gateway tries again"
        ) from None


async def _ended(*argv: str) -> int:
    quiet = asyncio.subprocess.DEVNULL
    program = await asyncio.create_subprocess_exec(*argv, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        return await program.wait()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
