"""Counts late writes, and records them in the stream `AUDIT` with the action `zombie-write`.

A late write is a worker's request that arrives after the end of the worker's epoch and is refused. Only the 1st, 10th,
100th, … late write of each sandbox is recorded, so that a worker that never stops cannot fill the stream. The counts
are in memory and begin again at 1 when the process restarts.
"""

import asyncio
from collections import Counter

import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.contracts.audit import Audited
from muster.common.faults import Fault

log = structlog.get_logger()

_STORE_S = 2.0
_REMEMBERED = 10_000


class ZombieWrites:
    """For each sandbox, the number of its worker's requests that this process refused after the end of the epoch."""

    def __init__(self, bus: Bus, instance: str) -> None:
        self._bus, self._message_store, self._instance = bus, MessageStore(bus), instance
        self._counts = Counter[str]()
        self._unpublished: asyncio.Queue[Audited] = asyncio.Queue(maxsize=1000)

    def refused(self, sandbox_id: str, epoch: int, endpoint: str) -> None:
        """Count a refused request of a worker whose epoch has ended.

        An audit record is queued for the 1st, 10th, 100th, … such request of each sandbox.
        """
        if sandbox_id not in self._counts and len(self._counts) >= _REMEMBERED:
            self._counts.clear()
        self._counts[sandbox_id] += 1
        count = self._counts[sandbox_id]
        if set(str(count)[1:]) <= {"0"} and str(count)[0] == "1" and not self._unpublished.full():
            self._unpublished.put_nowait(self._audited(sandbox_id, epoch, endpoint, count))

    async def run(self) -> None:
        """Log the queued audit records of refused requests and store them in the stream `AUDIT`, until cancelled."""
        while True:
            audited = await self._unpublished.get()
            log.warning("late write of a fenced worker refused", sandbox_id=audited.what, **audited.detail)
            try:
                await self._message_store.store(audited, audited.event_id, timeout_s=_STORE_S)
            except Fault as fault:  # The stream is missing if the management API has not created it yet.
                log.warning("audit record of a late write could not be stored", error=str(fault))

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
