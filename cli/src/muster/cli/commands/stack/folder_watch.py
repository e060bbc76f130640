"""Waits for changes of the files in a folder with inotify, so that `muster logs -f` reads only when a line was written.

If the kernel gives no watch (its limits are reached), the wait ends after a short time instead.
"""

import asyncio
import ctypes
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_MODIFY, _MOVED_TO, _CREATE = 0x2, 0x80, 0x100
_READ_BYTES = 64 << 10
POLL_S = 0.5
"""Seconds between two reads if the folder cannot be watched."""


class FolderWatch:
    """Wakes up when a file in the folder was written, created or renamed since the last wake-up."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._changed = asyncio.Event()
        if descriptor is not None:
            asyncio.get_running_loop().add_reader(descriptor, self._take)

    async def changed(self) -> None:
        """Return when a file in the folder has changed since the last call; else after `POLL_S` seconds."""
        if self._descriptor is None:
            await asyncio.sleep(POLL_S)
            return
        await self._changed.wait()
        self._changed.clear()

    def _take(self) -> None:
        if self._descriptor is not None:
            os.read(self._descriptor, _READ_BYTES)
        self._changed.set()


@contextmanager
def watched_folder(folder: Path) -> Generator[FolderWatch]:
    """Watch the folder until the block ends. Call this before the first read, so that no change is missed."""
    descriptor = _inotify(folder)
    try:
        yield FolderWatch(descriptor)
    finally:
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)


def _inotify(folder: Path) -> int | None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        return None
    if libc.inotify_add_watch(descriptor, os.fsencode(folder), _MODIFY | _MOVED_TO | _CREATE) < 0:
        os.close(descriptor)
        return None
    return descriptor
