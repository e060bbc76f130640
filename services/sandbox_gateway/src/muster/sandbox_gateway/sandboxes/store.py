"""The records of all sandboxes: a bucket with compare-and-set, and its live copy in this process."""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from muster.common.bus.buckets import Bucket
from muster.common.bus.connection import Bus
from muster.common.bus.journal import RevisionConflict
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord

KEPT_S = 60 * 86_400.0
"""A record that nobody writes for so long goes, and so does what a deleted one leaves in the bucket."""

Change = Callable[[SandboxRecord], SandboxRecord]


class _CachedRecord(msgspec.Struct, frozen=True):
    record: SandboxRecord
    revision: int


class SandboxStore:
    """All sandboxes the gateways know."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = Bucket(bus, "sandboxes", SandboxRecord, max_age_s=KEPT_S)
        self._held: dict[str, _CachedRecord] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._changed = asyncio.Event()

    async def ensure(self) -> None:
        """Make the bucket and learn what is in it."""
        await self._bucket.ensure()
        for entry in await self._bucket.entries():
            self._learn(entry.key, entry.value, entry.revision)

    def on_change(self, act: Callable[[str], None]) -> None:
        """Call `act` with the sandbox's id at each change, wherever it was made."""
        self._listeners.append(act)

    def all(self) -> list[SandboxRecord]:
        """Every record, oldest first, as far as this replica knows."""
        return [self._held[key].record for key in sorted(self._held)]

    def known(self, sandbox_id: str) -> SandboxRecord | None:
        """One record, as far as this replica knows."""
        held = self._held.get(sandbox_id)
        return held.record if held else None

    async def get(self, sandbox_id: str) -> SandboxRecord | None:
        """One record, as the bucket's leader has it."""
        entry = await self._bucket.get(sandbox_id)
        if entry is None:
            return None
        self._learn(sandbox_id, entry.value, entry.revision)
        return entry.value

    async def add(self, record: SandboxRecord) -> SandboxRecord:
        """Store a new record, or return the one that is there."""
        try:
            revision = await self._bucket.create(record.sandbox_id, record)
        except RevisionConflict:
            return await self.get(record.sandbox_id) or record
        self._learn(record.sandbox_id, record, revision)
        return record

    async def change(self, sandbox_id: str, change: Change) -> SandboxRecord | None:
        """Replace a record by `change(record)`, however many replicas try at once. None when there is none."""
        while True:
            entry = await self._bucket.get(sandbox_id)
            if entry is None:
                return None
            changed = change(entry.value)
            if changed == entry.value:
                self._learn(sandbox_id, entry.value, entry.revision)
                return changed
            try:
                revision = await self._bucket.update(sandbox_id, changed, revision=entry.revision)
            except RevisionConflict:
                continue
            self._learn(sandbox_id, changed, revision)
            return changed

    async def forget(self, sandbox_id: str) -> None:
        """Remove a record for good, unless somebody changes it just now."""
        held = self._held.get(sandbox_id)
        if held is not None:
            with contextlib.suppress(RevisionConflict):
                await self._bucket.delete(sandbox_id, revision=held.revision)

    async def write_again(self, sandbox_id: str) -> None:
        """Start the time for which the bucket keeps a record again, unless somebody changes it just now."""
        entry = await self._bucket.get(sandbox_id)
        if entry is not None:
            with contextlib.suppress(RevisionConflict):
                revision = await self._bucket.update(sandbox_id, entry.value, revision=entry.revision)
                self._learn(sandbox_id, entry.value, revision)

    async def until(self, sandbox_id: str, true: Callable[[SandboxRecord], bool], *, within_s: float) -> bool:
        """Wait for a record to become so. False when it did not in time."""
        try:
            async with asyncio.timeout(within_s):
                while not ((record := self.known(sandbox_id)) and true(record)):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Follow the bucket, for ever."""
        async for sandbox_id, record, revision in self._bucket.changes(restarted=self._start_over):
            if record is not None:
                self._learn(sandbox_id, record, revision)
            else:
                self._held.pop(sandbox_id, None)

    def _start_over(self) -> None:
        """Drop all records: the bucket was made anew, and its revisions begin at 1 again.

        A sandbox that the new bucket does not know has no log either. Its worker's lease is not renewed, so it ends.
        """
        self._held.clear()

    def _learn(self, sandbox_id: str, record: SandboxRecord, revision: int) -> None:
        held = self._held.get(sandbox_id)
        if held is not None and held.revision >= revision:
            return
        self._held[sandbox_id] = _CachedRecord(record, revision)
        self._changed.set()
        self._changed = asyncio.Event()
        for act in self._listeners:
            act(sandbox_id)
