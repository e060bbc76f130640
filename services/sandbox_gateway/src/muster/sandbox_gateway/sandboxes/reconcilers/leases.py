"""Renews the leases of workers: the provider ends a worker whose lease expires, even if every gateway is dead."""

import asyncio

from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandboxes.store import SandboxStore


class WorkerLeases:
    """Renews the lease of every worker that this gateway reaches and that is still wanted, unless it is fenced."""

    def __init__(self, sandboxes: SandboxStore, fences: FenceStore, providers: Providers, *, every_s: float) -> None:
        self._sandboxes, self._fences, self._providers = sandboxes, fences, providers
        self._every_s = every_s

    async def run(self) -> None:
        """Renew at every interval, until cancelled."""
        while True:
            wanted = [
                record
                for record in self._sandboxes.all()
                if record.live and self._providers.reach(record) and not self._fences.get(record.sandbox_id)
            ]
            if wanted:
                await self._providers.renew(wanted)
            await asyncio.sleep(self._every_s)
