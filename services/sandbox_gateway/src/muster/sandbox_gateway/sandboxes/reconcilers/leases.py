"""Renews the leases of workers. The provider ends a worker whose lease expires.

A lease bounds how long a worker runs when no gateway supervises it: if all gateways of a host die, its workers end
after `lease_s` seconds. The lease is renewed four times in that period, so that one lost renewal ends no worker. A
fenced worker gets no renewal: it then ends even if the command that stops it is lost. Leases are kept by the provider,
so a gateway that restarts only continues to renew them.
"""

import asyncio

from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandboxes.store import SandboxStore


class WorkerLeases:
    """Renews the lease of each worker that may be running, is not fenced, and is within reach of this gateway."""

    def __init__(self, sandboxes: SandboxStore, fences: FenceStore, providers: Providers, *, every_s: float) -> None:
        self._sandboxes, self._fences, self._providers = sandboxes, fences, providers
        self._every_s = every_s

    async def run(self) -> None:
        """Renew the leases every `every_s` seconds, until cancelled."""
        while True:
            wanted = [
                record
                for record in self._sandboxes.all()
                if record.live and self._providers.reach(record) and not self._fences.get(record.sandbox_id)
            ]
            if wanted:
                await self._providers.renew(wanted)
            await asyncio.sleep(self._every_s)
