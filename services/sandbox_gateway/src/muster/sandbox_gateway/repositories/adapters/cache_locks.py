"""Locks the repositories of the cache, between gateway processes and between the tasks of one process.

A lock of a file has no queue. So the tasks of one process first wait in the order of their requests, and only the first
of them tries to get the lock of the file. A task that wants to write is therefore not overtaken by later readers.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from muster.common.faults import Unavailable

_LOCK_EVERY_S = 0.1


class CacheLocks:
    """The locks of all repositories of a cache in this process. A lock is waited for at most `wait_s` seconds."""

    def __init__(self, *, wait_s: float) -> None:
        self._wait_s = wait_s
        self._queues = WeakValueDictionary[str, asyncio.Lock]()

    @asynccontextmanager
    async def locked(self, entry: Path, kind: int) -> AsyncGenerator[int]:
        """Lock a repository of the cache for this context: `LOCK_SH` to read it, or `LOCK_EX` to change it.

        Yields the file descriptor of the lock. Raises `Unavailable` if the repository is in use for too long.
        """
        lock = os.open(entry / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            queue = self._queues.setdefault(entry.name, asyncio.Lock())
            try:
                async with asyncio.timeout(self._wait_s), queue:
                    await _acquire(lock, kind)
            except TimeoutError:
                raise Unavailable(
                    f"the repository's copy was in use for {self._wait_s:g} s by another transfer; it is tried again"
                ) from None
            yield lock
        finally:
            os.close(lock)


async def _acquire(lock: int, kind: int) -> None:
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(_LOCK_EVERY_S)  # A lock that another process holds does not announce its end.
        else:
            return
