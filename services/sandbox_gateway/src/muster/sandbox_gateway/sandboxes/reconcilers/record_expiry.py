"""Rewrites the records of sandboxes that exist, and deletes the records of sandboxes that were deleted long ago.

The bucket of sandbox records drops each entry that was not written for 60 days. So the record of a deleted sandbox
disappears even if the gateway fails to delete it. A sandbox that exists for longer must keep its record. So the gateway
writes the record of each existing sandbox again before the 60 days end.
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
"""Age from which on a sandbox's record is written again, once a day."""
_EVERY_S = 86_400.0
_RETRY_S = 600.0
KEPT = timedelta(days=7)
"""Time after a sandbox's creation for which its record is kept at least, even if the sandbox is deleted."""
_FORGET_EVERY_S = 600.0


class RecordRenewal:
    """Rewrites old records of existing sandboxes that this gateway can reach, and removes old fences from memory."""

    def __init__(self, sandboxes: SandboxStore, fences: FenceStore, providers: Providers, now: Clock) -> None:
        self._sandboxes, self._fences, self._providers, self._now = sandboxes, fences, providers, now

    async def run(self) -> None:
        """Rewrite the old records of existing sandboxes once a day, until cancelled."""
        while True:
            try:
                await self.renew_old()
            except Fault as fault:
                log.warning("rewrite of old sandbox records failed", error=str(fault))
                await asyncio.sleep(_RETRY_S)
            else:
                await asyncio.sleep(_EVERY_S)

    async def renew_old(self) -> None:
        """Rewrite the records of existing sandboxes that are older than `REWRITE_AFTER`."""
        now = self._now()
        self._fences.prune(now)
        for record in self._sandboxes.all():
            if self._providers.reach(record) and record.state != "deleted" and now - record.created_at > REWRITE_AFTER:
                await self._sandboxes.rewrite(record.sandbox_id)


class RecordDeletion:
    """Deletes the records of deleted sandboxes that were created over `KEPT` ago. The sandboxes' logs are kept."""

    def __init__(self, sandboxes: SandboxStore, now: Clock) -> None:
        self._sandboxes, self._now = sandboxes, now

    async def run(self) -> None:
        """Delete the old records of deleted sandboxes every ten minutes, until cancelled."""
        while True:
            for record in self._sandboxes.all():
                if record.state == "deleted" and self._now() - record.created_at > KEPT:
                    await self._sandboxes.forget(record.sandbox_id)
            await asyncio.sleep(_FORGET_EVERY_S)
