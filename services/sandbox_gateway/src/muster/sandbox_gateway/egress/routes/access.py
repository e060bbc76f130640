"""Checks the token that a request to the proxy carries, and that the epoch of its sandbox has not ended."""

import asyncio

import h11

from muster.common.faults import Forbidden, Gone, InvalidMessage, Unauthenticated, Unavailable
from muster.sandbox_gateway.http.access import WorkerAccess
from muster.sandbox_gateway.sandbox_log.store.log import DEADLINE_S, SandboxLog
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring, SandboxClaims


class ConnectionAccess:
    """Authorizes connections of sandboxes by the header `Proxy-Authorization: Bearer <sandbox's token>`.

    Unlike the other endpoints, the proxy also serves a sandbox whose run has finished, because its test command runs
    after that.
    """

    def __init__(self, keyring: Keyring, access: WorkerAccess, log: SandboxLog) -> None:
        self._keyring, self._access, self._log = keyring, access, log

    async def authorize(self, request: h11.Request) -> SandboxClaims:
        """Return the claims of the request's token. Raises `InvalidMessage`, `Unauthenticated` or `Forbidden`."""
        sent = [value for name, value in request.headers if name == b"proxy-authorization"]
        if len(sent) > 1:
            raise InvalidMessage("the request has more than one header Proxy-Authorization; leave yours out")
        scheme, _, token = (sent[0] if sent else b"").decode("ascii", "replace").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("the proxy needs the sandbox's token; use the proxy that HTTP_PROXY names")
        claims = self._keyring.verify(token)
        self.check_again(claims)
        await self._check_epoch(claims)
        return claims

    def check_again(self, claims: SandboxClaims) -> None:
        """Raise `Unauthenticated` if the token has expired, and `Forbidden` if the sandbox was fenced."""
        try:
            self._access.check_again(claims)
        except Gone as gone:
            raise Forbidden(str(gone)) from None

    async def _check_epoch(self, claims: SandboxClaims) -> None:
        """Raise `Forbidden` if the last frame of the sandbox's log shows that the epoch has ended."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                tail = await self._log.tail(claims.sbx, fresh=False)
        except TimeoutError:
            raise Unavailable("the sandbox's log cannot be read right now; connect again") from None
        if tail is None or tail.kind.terminal or tail.epoch != claims.epoch:
            raise Forbidden("this epoch of the sandbox has ended")
