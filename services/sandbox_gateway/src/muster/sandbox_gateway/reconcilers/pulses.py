"""What is done at intervals: leases renewed, old records forgotten, and the word that this gateway is alive."""

import asyncio
from datetime import timedelta

from muster.common.bus.connection import Bus
from muster.common.clock import Clock
from muster.common.contracts.gateway import GatewayAlive
from muster.sandbox_gateway.adapters.provider import Provider
from muster.sandbox_gateway.store.fences import Fences
from muster.sandbox_gateway.store.sandboxes import Sandboxes

ALIVE_S = 2.0
KEPT = timedelta(days=7)
_FORGET_EVERY_S = 600.0


class Leases:
    """Renews the lease of every worker of this host that is still wanted; a fenced one ends with its lease."""

    def __init__(self, sandboxes: Sandboxes, fences: Fences, provider: Provider, *, host: str, every_s: float) -> None:
        self._sandboxes, self._fences, self._provider = sandboxes, fences, provider
        self._host, self._every_s = host, every_s

    async def run(self) -> None:
        """For ever."""
        while True:
            wanted = [
                record.sandbox_id
                for record in self._sandboxes.all()
                if record.live and record.host == self._host and not self._fences.get(record.sandbox_id)
            ]
            if wanted:
                await self._provider.renew(wanted)
            await asyncio.sleep(self._every_s)


class Forgetting:
    """Removes the records of sandboxes that were deleted long ago; their logs stay."""

    def __init__(self, sandboxes: Sandboxes, now: Clock) -> None:
        self._sandboxes, self._now = sandboxes, now

    async def run(self) -> None:
        """For ever."""
        while True:
            for record in self._sandboxes.all():
                if record.state == "deleted" and self._now() - record.created_at > KEPT:
                    await self._sandboxes.forget(record.sandbox_id)
            await asyncio.sleep(_FORGET_EVERY_S)


class Alive:
    """Silence of a worker counts only while these arrive, so none is sent later than it is true."""

    def __init__(self, bus: Bus, instance: str) -> None:
        self._bus, self._instance = bus, instance

    async def run(self) -> None:
        """For ever."""
        while True:
            if self._bus.connected.is_set():
                await self._bus.publish(GatewayAlive(instance=self._instance, at=self._bus.now()))
            await asyncio.sleep(ALIVE_S)
