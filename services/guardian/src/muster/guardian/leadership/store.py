"""Who leads: one key, replaced by compare-and-set. The lease's epoch is the fencing token of the guardian's logs."""

import asyncio
from datetime import datetime, timedelta

import structlog

from muster.common.bus.buckets import Bucket, BucketEntry
from muster.common.bus.connection import Bus
from muster.common.bus.journal import RevisionConflict
from muster.common.bus.streams import when_stored
from muster.common.contract import Message
from muster.common.faults import TimedOut, Unavailable
from muster.guardian.leadership.domain import WatchedLease

log = structlog.get_logger()

BUCKET, KEY = "leases", "guardian"
RENEWALS = 3
"""A lease is renewed so many times within its time to live."""


class GuardianLease(Message):
    """The holder, and by its own clock the time at which the lease expires unless it is renewed.

    An empty holder has given it back. `until` is for people who read the bucket: no guardian compares it with a clock.
    """

    holder: str
    epoch: int
    until: datetime


class Leadership:
    """Acquires the lease, and keeps it as long as it can."""

    def __init__(self, bus: Bus, *, ttl_s: float) -> None:
        self._bus, self._ttl_s = bus, ttl_s
        self._bucket = Bucket(bus, BUCKET, GuardianLease)
        self._holder = bus.new_id("req")
        self._revision = 0
        self._sure_until_s = 0.0
        self._watched = WatchedLease(ttl_s)

    @property
    def sure(self) -> bool:
        """Whether nobody else can lead yet, by this process's own clock (it may have been stopped for a while)."""
        return asyncio.get_running_loop().time() < self._sure_until_s

    async def ensure(self) -> None:
        """Make the bucket."""
        await self._bucket.ensure()

    async def acquired(self) -> GuardianLease:
        """Wait until the lease is ours."""
        async with self._bus.woken_by(when_stored(f"$KV.{BUCKET}.{KEY}")) as woken:
            while True:
                woken.clear()
                try:
                    lease, wait_s = await self.tried()
                    if lease is not None:
                        return lease
                except (Unavailable, TimedOut) as away:
                    log.warning("no lease to be had", error=str(away))
                    wait_s = self._ttl_s / RENEWALS
                try:
                    async with asyncio.timeout(max(0.05, min(wait_s, self._ttl_s))):
                        await woken.wait()
                except TimeoutError:
                    continue

    async def tried(self) -> tuple[GuardianLease | None, float]:
        """Look at the lease once and take it if it is free; else None and for how long it is still another's."""
        entry = await self._bucket.get(KEY)
        wait_s = self._left_s(entry)
        return (await self._take(entry) if wait_s <= 0 else None), wait_s

    async def lost(self, lease: GuardianLease) -> None:
        """Renew until that is no longer possible; returns then."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._ttl_s / RENEWALS)
            try:
                if not await self._renewed(lease):
                    self._sure_until_s = 0.0
                    return
            except (Unavailable, TimedOut) as away:
                log.warning("lease not renewed", error=str(away))
                if loop.time() >= self._sure_until_s:
                    return

    async def _renewed(self, lease: GuardianLease) -> bool:
        try:
            await self._put(self._mine(lease.epoch))
        except RevisionConflict:
            entry = await self._bucket.get(KEY)
            if entry is None or (entry.value.holder, entry.value.epoch) != (self._holder, lease.epoch):
                return False
            self._revision = entry.revision  # our own renewal, whose answer was lost
        return True

    async def give_back(self, lease: GuardianLease) -> None:
        """Let another lead at once."""
        self._sure_until_s = 0.0
        try:
            await self._put(GuardianLease(holder="", epoch=lease.epoch, until=self._bus.now()), sure=False)
        except (RevisionConflict, Unavailable, TimedOut) as away:
            log.info("lease not given back", error=str(away))

    async def _take(self, entry: BucketEntry[GuardianLease] | None) -> GuardianLease | None:
        lease = self._mine(entry.value.epoch + 1 if entry else 1)
        self._revision = entry.revision if entry else 0
        try:
            await self._put(lease)
        except RevisionConflict:
            return None
        return lease

    async def _put(self, lease: GuardianLease, *, sure: bool = True) -> None:
        asked_s = asyncio.get_running_loop().time()
        self._revision = await self._bucket.update(KEY, lease, revision=self._revision)
        if sure:
            self._sure_until_s = asked_s + self._ttl_s

    def _mine(self, epoch: int) -> GuardianLease:
        until = self._bus.now() + timedelta(seconds=self._ttl_s)
        return GuardianLease(holder=self._holder, epoch=epoch, until=until)

    def _left_s(self, entry: BucketEntry[GuardianLease] | None) -> float:
        if entry is None or entry.value.holder in ("", self._holder):
            return 0.0
        seen = (entry.revision, entry.value)  # of a bucket that was made anew, a revision may come again
        return self._watched.left_s(seen, asyncio.get_running_loop().time())
