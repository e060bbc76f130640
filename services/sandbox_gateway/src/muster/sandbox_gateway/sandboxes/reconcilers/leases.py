"""Renews the leases of workers. The provider ends a worker whose lease expires.

A lease limits the time that a worker runs while no gateway supervises it. If all gateways of a host die, the workers of
this host end after `lease_s` seconds. A gateway renews each lease four times in that period, so that one lost renewal
ends no worker. The lease of a fenced worker, whose epoch has ended, is not renewed. So this worker ends even if the
command to stop it is lost. The provider stores the leases, and a gateway that restarts continues to renew them.
"""

import asyncio

from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandboxes.store import SandboxStore


class WorkerLeases:
    """Renews the lease of each worker that may be running, is not fenced, and can be reached by this gateway."""

    def __init__(self, sandboxes: SandboxStore, fences: FenceStore, providers: Providers, *, every_s: float) -> None:
        self._sandboxes, self._fences, self._providers = sandboxes, fences, providers
        self._every_s = every_s

    async def run(self) -> None:
        """Renew the workers' leases every `every_s` seconds, until cancelled."""
        while True:
            wanted = [
                record
                for record in self._sandboxes.all()
                if record.live and self._providers.reach(record) and not self._fences.get(record.sandbox_id)
            ]
            if wanted:
                await self._providers.touch(wanted)
            await asyncio.sleep(self._every_s)
