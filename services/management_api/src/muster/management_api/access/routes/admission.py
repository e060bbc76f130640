"""Admits callers: verifies their credentials, and counts requests of callers and refused credentials of addresses."""

from fastapi.requests import HTTPConnection

from muster.common.faults import TooMany, Unauthenticated
from muster.management_api.access.domain.accepted import AcceptedCredentials
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.callers import Callers
from muster.management_api.http.rate_limits import RateLimits, Usage

UNKNOWN = "nobody"
"""The name of an unknown caller in the audit, and of an unknown address in the limits."""


class RateLimited(TooMany):
    """Too many requests. `retry_after_s` is the number of seconds until requests are allowed again."""

    def __init__(self, text: str, *, usage: Usage) -> None:
        super().__init__(text)
        self.retry_after_s = usage.reset_s


class Admission:
    """Admits callers and applies rate limits."""

    def __init__(self, callers: Callers, limits: RateLimits) -> None:
        self._callers, self._limits = callers, limits
        self._accepted = AcceptedCredentials()

    async def admit(self, connection: HTTPConnection) -> Principal:
        """Return the caller and count the request.

        Raises `Unauthenticated`, `Forbidden`, `RateLimited` or `Unavailable`. After too many refused credentials from
        an address, no others from it are verified, except those that were accepted lately: a client that guesses must
        not lock out callers behind the same address.
        """
        source, given = source_of(connection) or UNKNOWN, authorization_of(connection)
        if given not in self._accepted:
            refusals = await self._limits.refusals(source)
            if not refusals.allowed:
                raise RateLimited("too many wrong or missing keys from your address", usage=refusals)
        try:
            principal = await self._callers.identify(given)
        except Unauthenticated:
            self._accepted.discard(given)
            await self._limits.count_refusal(source)
            raise
        self._accepted.add(given)
        connection.state.caller = principal
        usage = connection.state.usage = await self._limits.count_request(principal.name)
        if not usage.allowed:
            raise RateLimited(f"{principal.name} may send {usage.limit} requests in {usage.window_s} s", usage=usage)
        return principal

    def concealed(self, connection: HTTPConnection) -> str:
        """Return the path of the request without a credential that was put into it by mistake."""
        return self._callers.concealed(connection.scope["path"], authorization_of(connection))[:200]


def source_of(connection: HTTPConnection) -> str | None:
    """Return the address of the client."""
    return connection.client.host if connection.client else None


def authorization_of(connection: HTTPConnection) -> bytes:
    """Return the header `Authorization` unchanged."""
    return connection.headers.get("authorization", "").encode("latin-1")
