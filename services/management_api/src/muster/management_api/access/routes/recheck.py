"""Ends open requests of a caller when its key or user is changed, or its credential expires."""

import asyncio
from contextlib import suppress

import structlog
from starlette.types import Scope

from muster.common.clock import Clock
from muster.common.faults import Fault, Unavailable
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.domain.roles import refuse
from muster.management_api.access.routes.callers import Callers
from muster.management_api.access.store.notices import PermissionNotices

log = structlog.get_logger()

RETRY_S = 1.0
"""Seconds until the next try while the database is away. Meanwhile permissions stay as they were."""


class AccessRecheck:
    """Checks again, for long requests, what `Requires` checked at their start."""

    def __init__(self, callers: Callers, notices: PermissionNotices, *, now: Clock) -> None:
        self._callers, self._notices, self._now = callers, notices, now

    async def lost(self, scope: Scope) -> Fault:
        """Wait until the caller may no longer have what it requested; return the refusal."""
        principal: Principal = scope["state"]["principal"]
        with self._notices.of(principal.user_id) as noticed:
            while True:
                noticed.clear()
                try:
                    wait_s = self._left_s(await self.refuse(scope))
                except Unavailable:
                    wait_s = RETRY_S
                except Fault as fault:
                    log.info("feed ended", who=principal.name, status=fault.status, error=str(fault))
                    return fault
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await noticed.wait()

    async def refuse(self, scope: Scope) -> Principal:
        """Return the caller with its present role. Raises the refusal that a new request would get."""
        principal = await self._callers.again(scope["state"]["principal"])
        refuse(principal, scope["state"]["requirement"])
        return principal

    def _left_s(self, principal: Principal) -> float | None:
        """Return the seconds until the credential expires; None: it does not expire by itself."""
        if principal.void_at is None:
            return None
        return max(0.0, (principal.void_at - self._now()).total_seconds())
