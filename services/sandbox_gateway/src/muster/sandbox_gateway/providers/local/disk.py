"""A sandbox's directories, which are under its control: they may be deep, huge or not what they seem."""

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
"""Agents keep their events at most four levels down."""
_CHUNK = 1 << 20
_EVENT = re.compile(r"event-.*\.json", re.DOTALL)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotAFile(Fault):
    """A pipe or a device lies where a file should."""


def count_events(state: Path) -> int | None:
    """The number of OpenHands' event files below `state`, else of the lines of `events.jsonl`; None without either.

    Follows no link and waits for nobody. Raises `Fault` or `OSError` for what cannot be counted.
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
    """One walk, each directory opened from the one above: a link put there meanwhile leads nowhere."""

    def __init__(self) -> None:
        self._entries = 0

    def files(self, folder: int, name: str, depth: int = 0) -> int:
        found = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                self._entries += 1
                if self._entries > _MOST_ENTRIES:
                    raise TooLarge(f"there are over {_MOST_ENTRIES} files beside the events")
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
        except FileNotFoundError:  # the worker may still be at work
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
            raise NotAFile(f"{name} is not a file")
        lines = size = 0
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > _LARGEST_JOURNAL:
                raise TooLarge(f"{name} is over {_LARGEST_JOURNAL} bytes")
            lines += chunk.count(b"\n")
    return lines


async def remove(home: Path, *, within_s: float = REMOVE_S) -> None:
    """Remove everything below and at `home`, of any depth. Raises `Unavailable` if that takes longer: then go on later.

    Not by Python, whose walk recurses. Neither program follows a link that it meets on its way.
    """
    try:
        async with asyncio.timeout(within_s):
            if await _ended("rm", "-rf", "--", str(home)):  # not ours to write into: the worker locked it
                await _ended("chmod", "-R", "-f", "u+rwX", "--", str(home))
                if code := await _ended("rm", "-rf", "--", str(home)):
                    raise Unavailable(f"{home.name} cannot be removed: rm ended with {code}")
    except TimeoutError:
        raise Unavailable(f"{home.name} is not removed after {within_s:g} s") from None


async def _ended(*argv: str) -> int:
    quiet = asyncio.subprocess.DEVNULL
    program = await asyncio.create_subprocess_exec(*argv, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        return await program.wait()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
