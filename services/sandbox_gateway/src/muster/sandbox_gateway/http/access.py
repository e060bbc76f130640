"""Authorizes requests of workers by the token of their sandbox, and refuses a token whose epoch has ended.

An epoch is the number of one attempt at a task. A fence ends an epoch. A worker's request that arrives after the end of
its epoch is a late write, and is refused and counted.
"""

import asyncio

from muster.common.clock import Clock
from muster.common.contract import token
from muster.common.faults import Gone, Unauthenticated, Unavailable
from muster.sandbox_gateway.http.request import WorkerRequest
from muster.sandbox_gateway.http.request_allowance import SandboxAllowances
from muster.sandbox_gateway.sandbox_log.domain.frames import ended
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import DEADLINE_S, SandboxLog
from muster.sandbox_gateway.sandbox_log.store.zombies import ZombieWrites
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring, SandboxClaims

SESSION_KEY = "x-session-api-key"
"""The header in which an OpenHands agent-server sends the sandbox's token, if its webhook has no other header."""
_NAME_IN_PATH = 4


class WorkerAccess:
    """Checks the token and the epoch of each worker's request before the request's body is read."""

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
        """Verify the token of a worker's request, charge the request to the sandbox's allowance, and return the claims.

        If `sandbox_id` is given, the token must belong to that sandbox. With `expired_too` an expired token is
        accepted, because a worker may deliver its last events after the token has expired. Raises `InvalidMessage`,
        `Unauthenticated`, `OverAllowance` or `Gone`.
        """
        if sandbox_id is not None:
            token(sandbox_id, "sandbox_id")
        scheme, credential = _credential(request)
        if scheme.lower() != "bearer" or not credential:
            raise Unauthenticated("the request has no token; send the header Authorization: Bearer <sandbox's token>")
        claims = self._keyring.verify(credential)
        if sandbox_id is not None and claims.sbx != sandbox_id:
            raise Unauthenticated("the request's token belongs to another sandbox than the request's path names")
        request.charge_to(claims.sbx, self._allowances)
        try:
            self.check_again(claims, expired_too=expired_too)
        except Gone:
            self.count_zombie_write(claims, request)
            raise
        return claims

    def token_in(self, request: WorkerRequest) -> str:
        """Return the token of a request that was authorized."""
        return _credential(request)[1]

    def check_again(self, claims: SandboxClaims, *, expired_too: bool = False) -> None:
        """Raise `Unauthenticated` if the token has expired, and `Gone` if the sandbox was fenced.

        A long poll of the inbox repeats this check after each wait. A long poll that is refused then is not counted as
        a late write of a fenced worker, because the request arrived before the fence.
        """
        if not expired_too and claims.expired(self._now()):
            raise Unauthenticated("the sandbox's token has expired")
        if fence := self._fences.get(claims.sbx):
            raise Gone(f"this sandbox was fenced ({fence.reason}); its worker must stop")

    async def check_open(self, claims: SandboxClaims, request: WorkerRequest) -> None:
        """Read the sandbox's log and check that the epoch has not ended.

        Only endpoints that append nothing to the log need this check, because the log itself refuses an append after
        the end of the epoch. Raises `Gone` if the run has finished or its epoch has ended, and `Unavailable` if the log
        cannot be read.
        """
        try:
            async with asyncio.timeout(DEADLINE_S):
                tail = await self._log.tail(claims.sbx)
        except TimeoutError:
            raise Unavailable("the sandbox's log cannot be read right now; send the same request again") from None
        if over := ended(tail, claims.epoch):
            self.count_zombie_write(claims, request)
            raise over

    def count_zombie_write(self, claims: SandboxClaims, request: WorkerRequest) -> None:
        """Count a worker's request that arrived after the end of the worker's epoch."""
        self._zombie_writes.refused(claims.sbx, claims.epoch, _endpoint(request.scope["path"]))


def _credential(request: WorkerRequest) -> tuple[str, str]:
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if not scheme and (key := request.headers.get(SESSION_KEY)):
        return "bearer", key
    return scheme, credential


def _endpoint(path: str) -> str:
    """Return the name of the endpoint in a path, without the rest that a client may choose freely."""
    parts = path.split("/")
    return parts[min(_NAME_IN_PATH, len(parts) - 1)]
