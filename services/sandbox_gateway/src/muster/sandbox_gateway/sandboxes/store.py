"""Stores the records of all sandboxes in a KV bucket, and keeps a copy of the bucket in this process.

Records are changed by compare-and-set on the bucket's revision, so that several gateways can change the same record
without losing a change. The copy follows the bucket: it serves lists and waits, while decisions read the record from
the bucket's leader (`get`). A process that starts reads the whole bucket first.
"""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from muster.common.bus.buckets import Bucket
from muster.common.bus.connection import Bus
from muster.common.bus.journal import RevisionConflict
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord

KEPT_S = 60 * 86_400.0
"""Seconds after which the bucket drops an entry that was not written again, and the marker of a deleted one."""

Change = Callable[[SandboxRecord], SandboxRecord]


class _CachedRecord(msgspec.Struct, frozen=True):
    record: SandboxRecord
    revision: int


class SandboxStore:
    """The records of all sandboxes of all gateways."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = Bucket(bus, "sandboxes", SandboxRecord, max_age_s=KEPT_S)
        self._held: dict[str, _CachedRecord] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._changed = asyncio.Event()

    async def ensure(self) -> None:
        """Create the bucket if it does not exist, and read all records from it."""
        await self._bucket.ensure()
        for entry in await self._bucket.entries():
            self._learn(entry.key, entry.value, entry.revision)

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the sandbox's id at each change of a record, by any replica."""
        self._listeners.append(listener)

    def all(self) -> list[SandboxRecord]:
        """Return all records from this replica's copy, ordered by id, which begins with the time of creation."""
        return [self._held[key].record for key in sorted(self._held)]

    def known(self, sandbox_id: str) -> SandboxRecord | None:
        """Return a record from this replica's copy; None if the copy has none."""
        held = self._held.get(sandbox_id)
        return held.record if held else None

    async def get(self, sandbox_id: str) -> SandboxRecord | None:
        """Return a record from the bucket's leader; None if there is none."""
        entry = await self._bucket.get(sandbox_id)
        if entry is None:
            return None
        self._learn(sandbox_id, entry.value, entry.revision)
        return entry.value

    async def add(self, record: SandboxRecord) -> SandboxRecord:
        """Store a new record and return it; return the stored record if there is one."""
        try:
            revision = await self._bucket.create(record.sandbox_id, record)
        except RevisionConflict:
            return await self.get(record.sandbox_id) or record
        self._learn(record.sandbox_id, record, revision)
        return record

    async def change(self, sandbox_id: str, change: Change) -> SandboxRecord | None:
        """Replace a record by `change(record)` and return that; None if there is no record.

        Reads and tries again after a conflict, so `change` may be called several times and must be pure.
        """
        while True:
            entry = await self._bucket.get(sandbox_id)
            if entry is None:
                return None
            changed = change(entry.value)
            if changed == entry.value:  # not written: each write wakes the reconcilers, which would never come to rest
                self._learn(sandbox_id, entry.value, entry.revision)
                return changed
            try:
                revision = await self._bucket.update(sandbox_id, changed, revision=entry.revision)
            except RevisionConflict:
                continue
            self._learn(sandbox_id, changed, revision)
            return changed

    async def forget(self, sandbox_id: str) -> None:
        """Remove a record, unless another replica has just changed it."""
        held = self._held.get(sandbox_id)
        if held is not None:
            with contextlib.suppress(RevisionConflict):
                await self._bucket.delete(sandbox_id, revision=held.revision)

    async def rewrite(self, sandbox_id: str) -> None:
        """Write a record unchanged, so that the bucket keeps it longer, unless another replica has just changed it."""
        entry = await self._bucket.get(sandbox_id)
        if entry is not None:
            with contextlib.suppress(RevisionConflict):
                revision = await self._bucket.update(sandbox_id, entry.value, revision=entry.revision)
                self._learn(sandbox_id, entry.value, revision)

    async def until(self, sandbox_id: str, true: Callable[[SandboxRecord], bool], *, within_s: float) -> bool:
        """Wait until `true` holds for a record in this replica's copy. False if that took over `within_s` seconds."""
        try:
            async with asyncio.timeout(within_s):
                while not ((record := self.known(sandbox_id)) and true(record)):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Follow the bucket, until cancelled."""
        async for sandbox_id, record, revision in self._bucket.changes(restarted=self._start_over):
            if record is not None:
                self._learn(sandbox_id, record, revision)
            else:
                self._held.pop(sandbox_id, None)

    def _start_over(self) -> None:
        """Drop all records of the copy: the bucket was made anew, and its revisions begin at 1 again.

        A sandbox that the new bucket does not have has lost its log too. Its worker's lease is not renewed, so it ends.
        """
        self._held.clear()

    def _learn(self, sandbox_id: str, record: SandboxRecord, revision: int) -> None:
        held = self._held.get(sandbox_id)
        if held is not None and held.revision >= revision:
            return
        self._held[sandbox_id] = _CachedRecord(record, revision)
        self._changed.set()
        self._changed = asyncio.Event()
        for listener in self._listeners:
            listener(sandbox_id)
