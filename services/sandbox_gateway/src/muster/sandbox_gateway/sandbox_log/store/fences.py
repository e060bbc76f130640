"""Stores the fences in a KV bucket and follows the bucket, so that every replica refuses a fenced sandbox quickly.

The copy in memory makes a refusal cheap: no request reads the bucket. The copy may lag behind by a moment, so it is
not what makes a fence certain. That is the `fenced` frame in the sandbox log: the log is appended by compare-and-set,
and after this frame no append of the epoch succeeds. See `handlers.py` for the order of the two writes.

A process that starts reads the whole bucket before it serves requests, and then follows its changes. Fences that
were seen once stay in memory even if the bucket was made anew and has lost them.
"""

import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta

from muster.common.bus.buckets import Bucket
from muster.common.bus.connection import Bus
from muster.common.bus.journal import RevisionConflict
from muster.common.contract import Message

_KEPT_S = 30 * 86_400.0


class Fence(Message):
    """An entry of the bucket, by sandbox id: the epoch that has ended, why, and when."""

    epoch: int
    reason: str
    at: datetime


class FenceStore:
    """All fences: the bucket, and this replica's copy of it."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = Bucket(bus, "fence", Fence, max_age_s=_KEPT_S)
        self._known: dict[str, Fence] = {}
        self._listeners: list[Callable[[str], None]] = []

    async def ensure(self) -> None:
        """Create the bucket if it does not exist, and read all fences from it."""
        await self._bucket.ensure()
        for entry in await self._bucket.entries():
            self._learn(entry.key, entry.value)

    def on_fence(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the sandbox's id at each new fence."""
        self._listeners.append(listener)

    def get(self, sandbox_id: str) -> Fence | None:
        """Return the fence of a sandbox from this replica's copy; None if the copy has none."""
        return self._known.get(sandbox_id)

    async def add(self, sandbox_id: str, fence: Fence) -> None:
        """Store the fence of a sandbox. A sandbox that has a fence keeps the first one."""
        with contextlib.suppress(RevisionConflict):  # fenced already, by a repeated command or another replica
            await self._bucket.create(sandbox_id, fence)
        self._learn(sandbox_id, fence)

    def prune(self, now: datetime) -> None:
        """Forget fences that the bucket has dropped because of their age. By then their tokens have expired."""
        kept_from = now - timedelta(seconds=_KEPT_S)
        for sandbox_id in [key for key, fence in self._known.items() if fence.at < kept_from]:
            del self._known[sandbox_id]

    async def run(self) -> None:
        """Follow the bucket, until cancelled. A fence that the bucket has lost stays in this replica's copy."""
        async for sandbox_id, fence, _ in self._bucket.changes():
            if fence is not None:  # None: the bucket has dropped an old entry; `prune` forgets the fence by its age
                self._learn(sandbox_id, fence)

    def _learn(self, sandbox_id: str, fence: Fence) -> None:
        if self._known.setdefault(sandbox_id, fence) is fence:
            for listener in self._listeners:
                listener(sandbox_id)
