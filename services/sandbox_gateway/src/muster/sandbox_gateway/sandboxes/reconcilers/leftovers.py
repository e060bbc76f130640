"""Removes, every ten minutes, the copies on this host that a killed gateway left or that no sandbox needs any more."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from muster.common.clock import Clock
from muster.sandbox_gateway.providers.leftovers import remove_old_code, remove_staged
from muster.sandbox_gateway.sandboxes.store import SandboxStore

log = structlog.get_logger()

_EVERY_S = 600.0


class HostLeftovers:
    """The loop that removes staged files of ended sandboxes, and the code of packages that is no longer used."""

    def __init__(self, sandboxes: SandboxStore, now: Clock, *, staging: Sequence[Path], code: Path) -> None:
        """Set the directories: `staging` contains one directory for each sandbox, `code` one for each package."""
        self._sandboxes, self._now, self._staging, self._code = sandboxes, now, staging, code

    async def run(self) -> None:
        """Remove unneeded copies every ten minutes, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Remove unneeded copies once."""
        now_s = self._now().timestamp()
        existing = {record.sandbox_id for record in self._sandboxes.all() if record.state != "deleted"}
        removed = list(await asyncio.to_thread(remove_old_code, self._code, now_s=now_s))
        for staging in self._staging:
            removed += await asyncio.to_thread(remove_staged, staging, exists=existing.__contains__, now_s=now_s)
        if removed:
            log.info("unneeded copies removed from this host", removed=removed)
