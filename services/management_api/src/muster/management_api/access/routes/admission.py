"""Admits callers: looks up their credentials, counts their requests and the refused credentials of addresses."""

from fastapi.requests import HTTPConnection

from muster.common.faults import TooMany, Unauthenticated
from muster.management_api.access.domain.accepted import AcceptedCredentials
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.callers import Callers
from muster.management_api.http.rate_limits import RateLimits, Usage

UNKNOWN = "nobody"
"""The name of an unknown caller in the audit, and of an unknown address in the limits."""


class RateLimited(TooMany):
    """Too many requests; `retry_after_s` says when there is room again."""

    def __init__(self, text: str, *, usage: Usage) -> None:
        super().__init__(text)
        self.retry_after_s = usage.reset_s


class Admission:
    """Admits callers."""

    def __init__(self, callers: Callers, limits: RateLimits) -> None:
        self._callers, self._limits = callers, limits
        self._accepted = AcceptedCredentials()

    async def admit(self, connection: HTTPConnection) -> Principal:
        """Find the caller and count the request. Raises `Unauthenticated`, `Forbidden`, `RateLimited` or `Unavailable`.

        For an address that has sent too many wrong credentials no others are looked up, except those that were
        accepted lately: a client that guesses must not lock out the callers behind the same address.
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
        """The request's path, without any credential that was put there by mistake."""
        return self._callers.concealed(connection.scope["path"], authorization_of(connection))[:200]


def source_of(connection: HTTPConnection) -> str | None:
    """The address that the request came from."""
    return connection.client.host if connection.client else None


def authorization_of(connection: HTTPConnection) -> bytes:
    """The header `Authorization`, as it was sent."""
    return connection.headers.get("authorization", "").encode("latin-1")
