"""Stores the fences of sandboxes in a KV bucket. A fence ends an epoch: the sandbox's worker is refused from then on.

Each replica keeps a copy of all fences in memory, so that it refuses a fenced worker quickly, without reading the
bucket. The copy may lag behind the bucket, so the copy alone does not make a fence certain. The `fenced` frame in the
sandbox's log does: the log is appended by compare-and-set, and after this frame no append of the epoch succeeds.
`handlers.py` explains the order of the two writes.

A process that starts reads the whole bucket before it serves requests. Then it adds each new fence to its copy. A fence
in the copy stays there even if the bucket is created again and has lost the fence.
"""

import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta

from muster.common.bus.buckets import Bucket
from muster.common.bus.connection import Bus
from muster.common.bus.message_store import RevisionConflict
from muster.common.contract import Message

_KEPT_S = 30 * 86_400.0


class Fence(Message):
    """An entry of the bucket of fences: the ended epoch of a sandbox, the reason of its end, and the time."""

    epoch: int
    reason: str
    at: datetime


class FenceStore:
    """The fences of all sandboxes: the KV bucket, and this replica's copy of the bucket."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = Bucket(bus, "fence", Fence, max_age_s=_KEPT_S)
        self._known: dict[str, Fence] = {}
        self._listeners: list[Callable[[str], None]] = []

    async def ensure(self) -> None:
        """Create the bucket of fences if it does not exist, and read all fences from the bucket."""
        await self._bucket.ensure()
        for entry in await self._bucket.entries():
            self._learn(entry.key, entry.value)

    def on_fence(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the sandbox's id each time that this replica learns of a new fence."""
        self._listeners.append(listener)

    def get(self, sandbox_id: str) -> Fence | None:
        """Return the fence of a sandbox from this replica's copy; None if the copy has no such fence."""
        return self._known.get(sandbox_id)

    async def add(self, sandbox_id: str, fence: Fence) -> None:
        """Store the fence of a sandbox. If the sandbox has a fence already, the bucket keeps the first fence."""
        with contextlib.suppress(RevisionConflict):  # `create` fails if the sandbox has a fence already
            await self._bucket.create(sandbox_id, fence)
        self._learn(sandbox_id, fence)

    def prune(self, now: datetime) -> None:
        """Remove old fences from memory. The bucket has dropped them too, and the fenced tokens have expired."""
        kept_from = now - timedelta(seconds=_KEPT_S)
        for sandbox_id in [key for key, fence in self._known.items() if fence.at < kept_from]:
            del self._known[sandbox_id]

    async def run(self) -> None:
        """Add each new fence in the bucket to this replica's copy, until cancelled.

        A fence that the bucket has lost stays in the copy.
        """
        async for sandbox_id, fence, _ in self._bucket.changes():
            # The value is None if the bucket has dropped an old fence. Then `prune` removes that fence from memory.
            if fence is not None:
                self._learn(sandbox_id, fence)

    def _learn(self, sandbox_id: str, fence: Fence) -> None:
        if self._known.setdefault(sandbox_id, fence) is fence:
            for listener in self._listeners:
                listener(sandbox_id)
