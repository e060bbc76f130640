"""The loop of the leader: wait for the lease, lead while it lasts, and begin again.

```
following ──lease acquired──▶ leading ──lease lost, or the work fails──▶ following
```
A guardian that dies leads no longer when its lease expires; the next one continues from the logs. Two may believe that
they lead for a moment: the lease's epoch is the fencing token of the guardian's logs, so only the newer one can write.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from muster.guardian.leadership.store import GuardianLease, Leadership

log = structlog.get_logger()


class LeaderLoop:
    """Runs `lead` whenever this process holds the lease, and cancels it when the lease is lost."""

    def __init__(self, leadership: Leadership, lead: Callable[[GuardianLease], Coroutine[Any, Any, None]]) -> None:
        self._leadership, self._lead = leadership, lead

    async def run(self) -> None:
        """Follow and lead in turn, until cancelled."""
        while True:
            lease = await self._leadership.acquired()
            log.info("leadership acquired", guardian_epoch=lease.epoch)
            try:
                async with asyncio.TaskGroup() as tasks:
                    leading = tasks.create_task(self._lead(lease))
                    await self._leadership.lost(lease)
                    leading.cancel()
                log.warning("leadership lost", guardian_epoch=lease.epoch)
            finally:
                if self._leadership.sure:
                    await self._leadership.give_back(lease)
