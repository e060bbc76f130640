"""Counts zombie writes, which are writes of a worker after the fence of its epoch, and records them in `AUDIT`.

Of each sandbox the 1st, 10th, 100th, … zombie write is recorded, so that a worker that never stops cannot flood the
stream. The counts are in memory: they begin again at 1 when the process restarts.
"""

import asyncio
from collections import Counter

import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.journal import Journal
from muster.common.contracts.audit import Audited
from muster.common.faults import Fault

log = structlog.get_logger()

_STORE_S = 2.0
_REMEMBERED = 10_000


class ZombieWrites:
    """The zombie writes that this process has refused, by sandbox."""

    def __init__(self, bus: Bus, instance: str) -> None:
        self._bus, self._journal, self._instance = bus, Journal(bus), instance
        self._counts = Counter[str]()
        self._unpublished: asyncio.Queue[Audited] = asyncio.Queue(maxsize=1000)

    def refused(self, sandbox_id: str, epoch: int, endpoint: str) -> None:
        """Count a refused write to an endpoint, and queue an audit record at each power of ten."""
        if sandbox_id not in self._counts and len(self._counts) >= _REMEMBERED:
            self._counts.clear()
        self._counts[sandbox_id] += 1
        count = self._counts[sandbox_id]
        if set(str(count)[1:]) <= {"0"} and str(count)[0] == "1" and not self._unpublished.full():
            self._unpublished.put_nowait(self._audited(sandbox_id, epoch, endpoint, count))

    async def run(self) -> None:
        """Log and store the queued audit records, until cancelled."""
        while True:
            audited = await self._unpublished.get()
            log.warning("zombie write refused", sandbox_id=audited.what, **audited.detail)
            try:
                await self._journal.store(audited, audited.event_id, timeout_s=_STORE_S)
            except Fault as fault:  # the management API creates the stream; the line above is logged in any case
                log.warning("zombie write not stored in the audit stream", error=str(fault))

    def _audited(self, sandbox_id: str, epoch: int, endpoint: str, count: int) -> Audited:
        return Audited(
            service="sandbox_gateway",
            action="zombie-write",
            event_id=f"{sandbox_id}-{self._instance}-{count}",
            at=self._bus.now(),
            who=sandbox_id,
            what=sandbox_id,
            outcome="refused",
            detail={"door": endpoint, "epoch": epoch, "count": count},
        )
