"""Who may knock: the bearer of a sandbox's own token, for as long as its epoch has not ended."""

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
    """Checks every request before anything of it is read."""

    def __init__(
        self,
        keyring: Keyring,
        fences: FenceStore,
        zombies: ZombieWrites,
        log: SandboxLog,
        now: Clock,
        allowances: SandboxAllowances,
    ) -> None:
        self._keyring, self._fences, self._zombies, self._log, self._now = keyring, fences, zombies, log, now
        self._allowances = allowances

    def granted(
        self, request: WorkerRequest, *, sandbox_id: str | None = None, expired_too: bool = False
    ) -> SandboxClaims:
        """The token's claims. Raises `InvalidMessage`, `Unauthenticated`, `OverAllowance` or `Gone`."""
        if sandbox_id is not None:
            token(sandbox_id, "sandbox_id")
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not credential:
            raise Unauthenticated("send the sandbox's token: Authorization: Bearer <token>")
        claims = self._keyring.verify(credential)
        if sandbox_id is not None and claims.sbx != sandbox_id:
            raise Unauthenticated("this token belongs to another sandbox")
        request.of(claims.sbx, self._allowances)
        try:
            self.still_granted(claims, expired_too=expired_too)
        except Gone:
            self.zombie(claims, request)
            raise
        return claims

    def still_granted(self, claims: SandboxClaims, *, expired_too: bool = False) -> None:
        """For a request that waits: whoever came before the fence is no zombie. Raises `Unauthenticated` or `Gone`."""
        if not expired_too and claims.expired(self._now()):
            raise Unauthenticated("this token has expired")
        if fence := self._fences.get(claims.sbx):
            raise Gone(f"this sandbox was fenced ({fence.reason}): stop")

    async def check_open(self, claims: SandboxClaims, request: WorkerRequest) -> None:
        """For endpoints that append nothing, so that the log does not refuse for them: read its last frame.

        Raises `Gone` once the run has finished or its epoch has ended, `Unavailable` if the log cannot be read.
        """
        try:
            async with asyncio.timeout(DEADLINE_S):
                tail = await self._log.tail(claims.sbx)
        except TimeoutError:
            raise Unavailable("the log cannot be read right now; send the same again") from None
        if over := ended(tail, claims.epoch):
            self.zombie(claims, request)
            raise over

    def zombie(self, claims: SandboxClaims, request: WorkerRequest) -> None:
        """Count a request that came after the end."""
        self._zombies.refused(claims.sbx, claims.epoch, request.scope["path"].rpartition("/")[2])
