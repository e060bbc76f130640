"""Keeps the records of sandboxes that exist, and deletes old ones: the bucket drops entries that are not rewritten."""

import asyncio
from datetime import timedelta

import structlog

from muster.common.clock import Clock
from muster.common.faults import Fault
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandboxes.store import KEPT_S, SandboxStore

log = structlog.get_logger()

WRITTEN_AGAIN = timedelta(seconds=KEPT_S / 2)
"""A record of this age is written again, daily."""
_EVERY_S = 86_400.0
_RETRY_S = 600.0
KEPT = timedelta(days=7)
"""How long the record of a deleted sandbox is kept."""
_FORGET_EVERY_S = 600.0


class RecordRenewal:
    """Writes the records of this host that are old and still needed again, and forgets old fences."""

    def __init__(self, sandboxes: SandboxStore, fences: FenceStore, providers: Providers, now: Clock) -> None:
        self._sandboxes, self._fences, self._providers, self._now = sandboxes, fences, providers, now

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
            if self._providers.reach(record) and record.state != "deleted" and now - record.created_at > WRITTEN_AGAIN:
                await self._sandboxes.write_again(record.sandbox_id)


class RecordDeletion:
    """Removes the records of sandboxes that were deleted long ago; their logs stay."""

    def __init__(self, sandboxes: SandboxStore, now: Clock) -> None:
        self._sandboxes, self._now = sandboxes, now

    async def run(self) -> None:
        """For ever."""
        while True:
            for record in self._sandboxes.all():
                if record.state == "deleted" and self._now() - record.created_at > KEPT:
                    await self._sandboxes.forget(record.sandbox_id)
            await asyncio.sleep(_FORGET_EVERY_S)
