"""Authorizes requests of workers: the token of the sandbox is required, and its epoch must not have ended."""

import asyncio

from muster.common.clock import Clock
from muster.common.contract import token
from muster.common.faults import Gone, Unauthenticated, Unavailable
from muster.sandbox_gateway.http.allowance import SandboxAllowances
from muster.sandbox_gateway.http.request import WorkerRequest
from muster.sandbox_gateway.sandbox_log.domain.frames import ended
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import DEADLINE_S, SandboxLog
from muster.sandbox_gateway.sandbox_log.store.zombies import ZombieWrites
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring, SandboxClaims


class WorkerAccess:
    """Checks each request before its body is read."""

    def __init__(
        self,
        keyring: Keyring,
        fences: FenceStore,
        zombie_writes: ZombieWrites,
        log: SandboxLog,
        now: Clock,
        allowances: SandboxAllowances,
    ) -> None:
        self._keyring, self._fences, self._zombie_writes, self._log, self._now = (
            keyring,
            fences,
            zombie_writes,
            log,
            now,
        )
        self._allowances = allowances

    def authorize(
        self, request: WorkerRequest, *, sandbox_id: str | None = None, expired_too: bool = False
    ) -> SandboxClaims:
        """Verify the request's token, charge the request to its sandbox's allowance, and return the token's claims.

        With `sandbox_id` the token must be of that sandbox. `expired_too` accepts an expired token: a worker may still
        deliver its events after that. Raises `InvalidMessage`, `Unauthenticated`, `OverAllowance` or `Gone`.
        """
        if sandbox_id is not None:
            token(sandbox_id, "sandbox_id")
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not credential:
            raise Unauthenticated("send the sandbox's token: Authorization: Bearer <token>")
        claims = self._keyring.verify(credential)
        if sandbox_id is not None and claims.sbx != sandbox_id:
            raise Unauthenticated("this token belongs to another sandbox")
        request.charge_to(claims.sbx, self._allowances)
        try:
            self.check_again(claims, expired_too=expired_too)
        except Gone:
            self.count_zombie_write(claims, request)
            raise
        return claims

    def check_again(self, claims: SandboxClaims, *, expired_too: bool = False) -> None:
        """Check a waiting request again, without counting a zombie write: the request came before the fence.

        Raises `Unauthenticated` or `Gone`.
        """
        if not expired_too and claims.expired(self._now()):
            raise Unauthenticated("this token has expired")
        if fence := self._fences.get(claims.sbx):
            raise Gone(f"this sandbox was fenced ({fence.reason}): stop")

    async def check_open(self, claims: SandboxClaims, request: WorkerRequest) -> None:
        """Check in the log that the epoch has not ended, for endpoints that append nothing and so get no refusal by it.

        Raises `Gone` once the run has finished or its epoch has ended, `Unavailable` if the log cannot be read.
        """
        try:
            async with asyncio.timeout(DEADLINE_S):
                tail = await self._log.tail(claims.sbx)
        except TimeoutError:
            raise Unavailable("the log cannot be read right now; send the same again") from None
        if over := ended(tail, claims.epoch):
            self.count_zombie_write(claims, request)
            raise over

    def count_zombie_write(self, claims: SandboxClaims, request: WorkerRequest) -> None:
        """Count a request that arrived after the end of its epoch."""
        self._zombie_writes.refused(claims.sbx, claims.epoch, request.scope["path"].rpartition("/")[2])
