"""Writes that came after a fence: counted, and told in `AUDIT`, the first and then every power of ten."""

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
    """Who goes on although it was told to stop."""

    def __init__(self, bus: Bus, instance: str) -> None:
        self._bus, self._journal, self._instance = bus, Journal(bus), instance
        self._counts = Counter[str]()
        self._told: asyncio.Queue[Audited] = asyncio.Queue(maxsize=1000)

    def refused(self, sandbox_id: str, epoch: int, door: str) -> None:
        """Count one refused write."""
        if sandbox_id not in self._counts and len(self._counts) >= _REMEMBERED:
            self._counts.clear()
        self._counts[sandbox_id] += 1
        count = self._counts[sandbox_id]
        if set(str(count)[1:]) <= {"0"} and str(count)[0] == "1" and not self._told.full():
            self._told.put_nowait(self._audited(sandbox_id, epoch, door, count))

    async def run(self) -> None:
        """Tell, for ever."""
        while True:
            audited = await self._told.get()
            log.warning("write after the fence", sandbox_id=audited.what, **audited.detail)
            try:
                await self._journal.store(audited, audited.event_id, timeout_s=_STORE_S)
            except Fault as fault:  # the stream is the API's; the log line above has it in any case
                log.warning("audit not stored", error=str(fault))

    def _audited(self, sandbox_id: str, epoch: int, door: str, count: int) -> Audited:
        return Audited(
            service="sandbox_gateway",
            action="zombie-write",
            event_id=f"{sandbox_id}-{self._instance}-{count}",
            at=self._bus.now(),
            who=sandbox_id,
            what=sandbox_id,
            outcome="refused",
            detail={"door": door, "epoch": epoch, "count": count},
        )
