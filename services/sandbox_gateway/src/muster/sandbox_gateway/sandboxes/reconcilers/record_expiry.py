"""Rewrites the records of sandboxes that exist, and deletes the records of sandboxes deleted long ago.

The bucket drops entries that were not written for 60 days. That removes what failed deletions leave behind, but would
also drop the record of a sandbox that exists for longer; so such records are written again before that.
"""

import asyncio
from datetime import timedelta

import structlog

from muster.common.clock import Clock
from muster.common.faults import Fault
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandboxes.store import KEPT_S, SandboxStore

log = structlog.get_logger()

REWRITE_AFTER = timedelta(seconds=KEPT_S / 2)
"""Age of a record from which on it is written again, once a day."""
_EVERY_S = 86_400.0
_RETRY_S = 600.0
KEPT = timedelta(days=7)
"""Time after its creation for which the record of a deleted sandbox is kept."""
_FORGET_EVERY_S = 600.0


class RecordRenewal:
    """Rewrites the old records of existing sandboxes that this gateway reaches, and forgets old fences."""

    def __init__(self, sandboxes: SandboxStore, fences: FenceStore, providers: Providers, now: Clock) -> None:
        self._sandboxes, self._fences, self._providers, self._now = sandboxes, fences, providers, now

    async def run(self) -> None:
        """Rewrite old records once a day, until cancelled."""
        while True:
            try:
                await self.renew_old()
            except Fault as fault:
                log.warning("old sandbox records not rewritten", error=str(fault))
                await asyncio.sleep(_RETRY_S)
            else:
                await asyncio.sleep(_EVERY_S)

    async def renew_old(self) -> None:
        """Rewrite the records that are older than `REWRITE_AFTER` now."""
        now = self._now()
        self._fences.prune(now)
        for record in self._sandboxes.all():
            if self._providers.reach(record) and record.state != "deleted" and now - record.created_at > REWRITE_AFTER:
                await self._sandboxes.rewrite(record.sandbox_id)


class RecordDeletion:
    """Removes the records of deleted sandboxes once they are older than `KEPT`. Their logs stay."""

    def __init__(self, sandboxes: SandboxStore, now: Clock) -> None:
        self._sandboxes, self._now = sandboxes, now

    async def run(self) -> None:
        """Remove old records every ten minutes, until cancelled."""
        while True:
            for record in self._sandboxes.all():
                if record.state == "deleted" and self._now() - record.created_at > KEPT:
                    await self._sandboxes.forget(record.sandbox_id)
            await asyncio.sleep(_FORGET_EVERY_S)
