"""How long a caller may go on with what he was let in for: until his key or his user is changed, or his time is up."""

import asyncio
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import structlog

from muster.common.clock import Clock
from muster.common.faults import Fault, Unavailable
from muster.management_api.domain.principals import Principal
from muster.management_api.domain.roles import Row, Table, refuse
from muster.management_api.routes.callers import Callers
from muster.management_api.store.notices import Notices

log = structlog.get_logger()

Scope = MutableMapping[str, Any]
RETRY_S = 1.0
"""While the database cannot be asked: what was allowed stays so, as nobody can have changed it there."""


class Standing:
    """Asks again what the door asked, for requests that last."""

    def __init__(self, callers: Callers, notices: Notices, table: Table, *, now: Clock) -> None:
        self._callers, self._notices, self._table, self._now = callers, notices, table, now

    async def lost(self, scope: Scope) -> Fault:
        """Why the caller may no longer have what he asked for, as soon as that is so."""
        principal: Principal = scope["principal"]
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
        """The caller as he stands now; raises what he would be told if he asked now."""
        principal = await self._callers.again(scope["principal"])
        refuse(principal, self._row(scope))
        return principal

    def _row(self, scope: Scope) -> Row:
        methods: Mapping[str, Row] = self._table.methods(scope["path"]) or {}
        return methods[scope["method"]]

    def _left_s(self, principal: Principal) -> float | None:
        """How long his credential is good for; None: for ever, unless somebody ends it."""
        if principal.void_at is None:
            return None
        return max(0.0, (principal.void_at - self._now()).total_seconds())
