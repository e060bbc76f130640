"""Checks the permissions of long requests again, when the caller's key or user changes or the credential expires.

A long request, such as an open feed, is ended if its caller has lost the permission.
"""

import asyncio
from contextlib import suppress

import structlog
from starlette.types import Scope

from muster.common.clock import Clock
from muster.common.faults import Fault, Unavailable
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.domain.roles import refuse
from muster.management_api.access.routes.authentication import Callers
from muster.management_api.access.store.notices import PermissionNotices

log = structlog.get_logger()

RETRY_S = 1.0
"""Seconds until the next try while the database is unreachable. Until then the caller keeps its permissions."""


class AccessRecheck:
    """Checks the permissions of callers again while their requests are open.

    `Requires` has checked the permissions at the start of each request.
    """

    def __init__(self, callers: Callers, notices: PermissionNotices, *, now: Clock) -> None:
        self._callers, self._notices, self._now = callers, notices, now

    async def lost(self, scope: Scope) -> Fault:
        """Wait until the caller of an open request loses the permission for it, and return the refusal."""
        principal: Principal = scope["state"]["principal"]
        with self._notices.of(principal.user_id) as noticed:
            while True:
                noticed.clear()
                try:
                    wait_s = self._left_s(await self.refuse(scope))
                except Unavailable:
                    wait_s = RETRY_S
                except Fault as fault:
                    log.info("feed ended: permission lost", who=principal.name, status=fault.status, error=str(fault))
                    return fault
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await noticed.wait()

    async def refuse(self, scope: Scope) -> Principal:
        """Check the caller of an open request again. Raises the refusal that a new request of the caller would get.

        Returns the caller with its present role.
        """
        principal = await self._callers.again(scope["state"]["principal"])
        refuse(principal, scope["state"]["requirement"])
        return principal

    def _left_s(self, principal: Principal) -> float | None:
        """Return the seconds until the caller's credential expires; None if it does not expire."""
        if principal.void_at is None:
            return None
        return max(0.0, (principal.void_at - self._now()).total_seconds())
