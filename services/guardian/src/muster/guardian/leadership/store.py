"""The lease of the leading guardian: one key in a NATS KV bucket, replaced by compare-and-set.

```
free or expired ──take: epoch + 1──▶ held ──renew, three times within a TTL──▶ held
                                       ├──given back: empty holder──▶ free
                                       └──not renewed for a TTL──▶ expired
```
Only one replica can take a free lease, because the write expects the revision that was read. Each take increments the
epoch, which is the fencing token in the guardian's logs. The holder counts the TTL from before it sends a renewal;
other replicas count the TTL from after they have read the lease. So the holder stops leading before another replica can
take the lease, even if the holder was suspended for a while. If the holder dies, its lease expires one TTL later.
"""

import asyncio
from datetime import datetime, timedelta

import structlog

from muster.common.bus.buckets import Bucket, BucketEntry
from muster.common.bus.connection import Bus
from muster.common.bus.message_store import RevisionConflict
from muster.common.bus.streams import when_stored
from muster.common.contract import Message
from muster.common.faults import TimedOut, Unavailable
from muster.guardian.leadership.domain import WatchedLease

log = structlog.get_logger()

BUCKET, KEY = "leases", "guardian"
RENEWALS = 3
"""The number of renewals of the lease within its TTL."""


class GuardianLease(Message):
    """The value of the lease in the KV bucket: the holder, the epoch, and the expiry by the holder's clock.

    An empty `holder` means that the lease is free. `until` is for operators who read the bucket; no guardian compares
    `until` with a clock.
    """

    holder: str
    epoch: int
    until: datetime


class Leadership:
    """Acquires and renews the lease of the leading guardian for this process."""

    def __init__(self, bus: Bus, *, ttl_s: float) -> None:
        self._bus, self._ttl_s = bus, ttl_s
        self._bucket = Bucket(bus, BUCKET, GuardianLease)
        self._holder = bus.new_id("req")
        self._revision = 0
        self._leading_until_s = 0.0
        self._watched = WatchedLease(ttl_s)

    @property
    def surely_leading(self) -> bool:
        """Whether it is certain that no other replica has the lease, by this process's monotonic clock."""
        return asyncio.get_running_loop().time() < self._leading_until_s

    async def ensure(self) -> None:
        """Create the KV bucket of the lease if the bucket does not exist."""
        await self._bucket.ensure()

    async def acquire(self) -> GuardianLease:
        """Wait until this process has taken the lease, and return the lease."""
        async with self._bus.woken_by(when_stored(f"$KV.{BUCKET}.{KEY}")) as woken:
            while True:
                woken.clear()
                try:
                    lease, wait_s = await self.try_acquire()
                    if lease is not None:
                        return lease
                except (Unavailable, TimedOut) as fault:
                    log.warning("leader lease not read", error=str(fault))
                    wait_s = self._ttl_s / RENEWALS
                try:
                    async with asyncio.timeout(max(0.05, min(wait_s, self._ttl_s))):
                        await woken.wait()
                except TimeoutError:
                    continue

    async def try_acquire(self) -> tuple[GuardianLease | None, float]:
        """Read the lease once, and take the lease if it is free or expired.

        Returns the lease or None, and the number of seconds for which another replica may still have the lease.
        """
        entry = await self._bucket.get(KEY)
        wait_s = self._left_s(entry)
        return (await self._take(entry) if wait_s <= 0 else None), wait_s

    async def renew_until_lost(self, lease: GuardianLease) -> None:
        """Renew the lease three times within each TTL; return when the lease is lost or may be lost."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._ttl_s / RENEWALS)
            try:
                if not await self._renewed(lease):
                    self._leading_until_s = 0.0
                    return
            except (Unavailable, TimedOut) as fault:
                log.warning("leader lease not renewed", error=str(fault))
                if loop.time() >= self._leading_until_s:
                    return

    async def _renewed(self, lease: GuardianLease) -> bool:
        try:
            await self._put(self._mine(lease.epoch))
        except RevisionConflict:
            entry = await self._bucket.get(KEY)
            if entry is None or (entry.value.holder, entry.value.epoch) != (self._holder, lease.epoch):
                return False
            self._revision = entry.revision  # The last renewal was stored, but its acknowledgement got lost.
        return True

    async def give_back(self, lease: GuardianLease) -> None:
        """End this process's lease, so that another replica can take the lease without waiting for the TTL."""
        self._leading_until_s = 0.0
        try:
            await self._put(GuardianLease(holder="", epoch=lease.epoch, until=self._bus.now()), extend=False)
        except (RevisionConflict, Unavailable, TimedOut) as fault:
            log.info("leader lease not released", error=str(fault))

    async def _take(self, entry: BucketEntry[GuardianLease] | None) -> GuardianLease | None:
        lease = self._mine(entry.value.epoch + 1 if entry else 1)
        self._revision = entry.revision if entry else 0
        try:
            await self._put(lease)
        except RevisionConflict:
            return None
        return lease

    async def _put(self, lease: GuardianLease, *, extend: bool = True) -> None:
        # The lease's TTL counts from before the write. Other replicas read the lease later, so their TTL ends later.
        sent_at_s = asyncio.get_running_loop().time()
        self._revision = await self._bucket.update(KEY, lease, revision=self._revision)
        if extend:
            self._leading_until_s = sent_at_s + self._ttl_s

    def _mine(self, epoch: int) -> GuardianLease:
        until = self._bus.now() + timedelta(seconds=self._ttl_s)
        return GuardianLease(holder=self._holder, epoch=epoch, until=until)

    def _left_s(self, entry: BucketEntry[GuardianLease] | None) -> float:
        if entry is None or entry.value.holder in ("", self._holder):
            return 0.0
        seen = (entry.revision, entry.value)  # A new KV bucket counts revisions from 1 again.
        return self._watched.left_s(seen, asyncio.get_running_loop().time())
