"""What ages: buckets drop what nobody writes for weeks; this process forgets it too, and keeps records in use."""

import asyncio
from datetime import timedelta

import structlog

from muster.common.clock import Clock
from muster.common.faults import Fault
from muster.sandbox_gateway.store.fences import Fences
from muster.sandbox_gateway.store.sandboxes import KEPT_S, Sandboxes

log = structlog.get_logger()

WRITTEN_AGAIN = timedelta(seconds=KEPT_S / 2)
"""A record of this age is written again, daily."""
_EVERY_S = 86_400.0
_RETRY_S = 600.0


class Aging:
    """Writes the records of this host that are old and still needed again, and forgets old fences."""

    def __init__(self, sandboxes: Sandboxes, fences: Fences, now: Clock, *, host: str) -> None:
        self._sandboxes, self._fences, self._now, self._host = sandboxes, fences, now, host

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.look()
            except Fault as fault:
                log.warning("old sandbox records not written again", error=str(fault))
                await asyncio.sleep(_RETRY_S)
            else:
                await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Once."""
        now = self._now()
        self._fences.prune(now)
        for record in self._sandboxes.all():
            if record.host == self._host and record.state != "deleted" and now - record.created_at > WRITTEN_AGAIN:
                await self._sandboxes.write_again(record.sandbox_id)
