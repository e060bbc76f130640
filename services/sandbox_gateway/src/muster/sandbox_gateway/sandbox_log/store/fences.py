"""The fences: a bucket, and its live copy in this process, so that every door of every replica refuses at once.

The copy makes refusals quick; what makes them certain is the `fenced` frame in the log itself.
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
    """That a sandbox's epoch has ended, and why."""

    epoch: int
    reason: str
    at: datetime


class FenceStore:
    """All fences."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = Bucket(bus, "fence", Fence, max_age_s=_KEPT_S)
        self._known: dict[str, Fence] = {}
        self._listeners: list[Callable[[str], None]] = []

    async def ensure(self) -> None:
        """Make the bucket and learn what is in it."""
        await self._bucket.ensure()
        for entry in await self._bucket.entries():
            self._learn(entry.key, entry.value)

    def on_fence(self, act: Callable[[str], None]) -> None:
        """Call `act` with the sandbox's id at each new fence."""
        self._listeners.append(act)

    def get(self, sandbox_id: str) -> Fence | None:
        """The fence of a sandbox, as far as this replica knows."""
        return self._known.get(sandbox_id)

    async def add(self, sandbox_id: str, fence: Fence) -> None:
        """Fence a sandbox, once."""
        with contextlib.suppress(RevisionConflict):
            await self._bucket.create(sandbox_id, fence)
        self._learn(sandbox_id, fence)

    def prune(self, now: datetime) -> None:
        """Forget the fences that the bucket has dropped by their age; every token for them has expired."""
        kept_from = now - timedelta(seconds=_KEPT_S)
        for sandbox_id in [key for key, fence in self._known.items() if fence.at < kept_from]:
            del self._known[sandbox_id]

    async def run(self) -> None:
        """Follow the bucket, for ever. A fence is kept also when the bucket was made anew and has lost it."""
        async for sandbox_id, fence, _ in self._bucket.changes():
            if fence is not None:
                self._learn(sandbox_id, fence)

    def _learn(self, sandbox_id: str, fence: Fence) -> None:
        if self._known.setdefault(sandbox_id, fence) is fence:
            for act in self._listeners:
                act(sandbox_id)
