"""The leader loop of the guardian: acquires the lease, leads while the process has the lease, and begins again.

```
following ──lease acquired──▶ leading ──lease lost, or the work fails──▶ following
```
If the leader dies, its lease expires; another replica becomes leader and continues from the logs. For a moment two
replicas may believe that they lead. This does no harm: the epoch of the lease is the fencing token in the guardian's
logs, which are written by compare-and-set. So the older leader's next append fails, and it finds the newer epoch.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from muster.guardian.leadership.store import GuardianLease, Leadership

log = structlog.get_logger()


class LeaderLoop:
    """Runs the coroutine `lead` whenever this process has the leader's lease; cancels it when the lease is lost."""

    def __init__(self, leadership: Leadership, lead: Callable[[GuardianLease], Coroutine[Any, Any, None]]) -> None:
        self._leadership, self._lead = leadership, lead

    async def run(self) -> None:
        """Wait for the lease, lead until the lease is lost, and begin again, until cancelled."""
        while True:
            lease = await self._leadership.acquire()
            log.info("leadership acquired", guardian_epoch=lease.epoch)
            try:
                async with asyncio.TaskGroup() as tasks:
                    leading = tasks.create_task(self._lead(lease))
                    await self._leadership.renew_until_lost(lease)
                    leading.cancel()
                log.warning("leadership lost", guardian_epoch=lease.epoch)
            finally:
                if self._leadership.surely_leading:
                    await self._leadership.give_back(lease)
