"""Stores the records of all sandboxes in a KV bucket, and keeps a copy of the bucket in the memory of this process.

Records are changed by compare-and-set on the bucket's revision, so that several gateways can change the same record
without losing a change. Each process reads the whole bucket when it starts, and then updates its copy with each change
of the bucket. Lists and waits read the copy. Decisions read the record from the bucket's leader (`get`).
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime

import msgspec

from muster.common.bus.buckets import Bucket
from muster.common.bus.connection import Bus
from muster.common.bus.message_store import RevisionConflict
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.domain.orphans import RecordHistory

KEPT_S = 60 * 86_400.0
"""Seconds after which the bucket drops a record that was not written again, and the marker of a deleted record."""

Change = Callable[[SandboxRecord], SandboxRecord]


class _CachedRecord(msgspec.Struct, frozen=True):
    record: SandboxRecord
    revision: int


class SandboxStore:
    """The records of all sandboxes of all gateways."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = Bucket(bus, "sandboxes", SandboxRecord, max_age_s=KEPT_S)
        self._now = bus.now
        self._held: dict[str, _CachedRecord] = {}
        self._opened: tuple[datetime, datetime] | None = None
        self._listeners: list[Callable[[str], None]] = []
        self._changed = asyncio.Event()

    async def ensure(self) -> None:
        """Create the bucket of sandbox records if it does not exist, and read all records from the bucket."""
        await self._bucket.ensure()
        if self._opened is None:
            self._opened = (await self._bucket.times()).written_at, self._now()
        for entry in await self._bucket.entries():
            self._learn(entry.key, entry.value, entry.revision)

    async def history(self) -> RecordHistory:
        """Return since when the records are complete."""
        assert self._opened is not None, "`ensure` was not called"
        times = await self._bucket.times()
        return RecordHistory(times.created_at, *self._opened)

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the id of a sandbox each time that any replica has changed the sandbox's record."""
        self._listeners.append(listener)

    def all(self) -> list[SandboxRecord]:
        """Return all sandbox records from this replica's copy, ordered by id. An id begins with the creation time."""
        return [self._held[key].record for key in sorted(self._held)]

    def known(self, sandbox_id: str) -> SandboxRecord | None:
        """Return the record of a sandbox from this replica's copy; None if the copy has no such record."""
        held = self._held.get(sandbox_id)
        return held.record if held else None

    async def get(self, sandbox_id: str) -> SandboxRecord | None:
        """Return the record of a sandbox as stored at the bucket's leader; None if the bucket has no such record."""
        entry = await self._bucket.get(sandbox_id)
        if entry is None:
            return None
        self._learn(sandbox_id, entry.value, entry.revision)
        return entry.value

    async def add(self, record: SandboxRecord) -> SandboxRecord:
        """Store the record of a new sandbox and return it. If the sandbox has a record already, return that record."""
        try:
            revision = await self._bucket.create(record.sandbox_id, record)
        except RevisionConflict:
            return await self.get(record.sandbox_id) or record
        self._learn(record.sandbox_id, record, revision)
        return record

    async def change(self, sandbox_id: str, change: Change) -> SandboxRecord | None:
        """Replace the record of a sandbox by `change(record)` and return the new record; None if there is no record.

        If another writer was faster, the record is read again. So `change` may be called several times and must be
        pure.
        """
        while True:
            entry = await self._bucket.get(sandbox_id)
            if entry is None:
                return None
            changed = change(entry.value)
            # An unchanged record is not written: each write wakes the reconcile loops, which would run without end.
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
        """Delete the record of a sandbox, unless another replica has just changed the record."""
        held = self._held.get(sandbox_id)
        if held is not None:
            with contextlib.suppress(RevisionConflict):
                await self._bucket.delete(sandbox_id, revision=held.revision)

    async def rewrite(self, sandbox_id: str) -> None:
        """Write the unchanged record of a sandbox again, so that the bucket keeps the record longer.

        Nothing is written if another replica changes the record at the same time.
        """
        entry = await self._bucket.get(sandbox_id)
        if entry is not None:
            with contextlib.suppress(RevisionConflict):
                revision = await self._bucket.update(sandbox_id, entry.value, revision=entry.revision)
                self._learn(sandbox_id, entry.value, revision)

    async def until(self, sandbox_id: str, true: Callable[[SandboxRecord], bool], *, within_s: float) -> bool:
        """Wait until `true(record)` is true for a sandbox's record in this replica's copy.

        Returns False if that takes over `within_s` seconds.
        """
        try:
            async with asyncio.timeout(within_s):
                while not ((record := self.known(sandbox_id)) and true(record)):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Update this replica's copy with each change of the bucket, until cancelled."""
        async for sandbox_id, record, revision in self._bucket.changes(restarted=self._start_over):
            if record is not None:
                self._learn(sandbox_id, record, revision)
            else:
                self._held.pop(sandbox_id, None)

    def _start_over(self) -> None:
        """Remove all records from the copy, because the bucket was created again and its revisions begin at 1 again.

        If the new bucket has no record of a sandbox, the sandbox's log is lost too. The lease of its worker is then not
        renewed, so the worker ends.
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
