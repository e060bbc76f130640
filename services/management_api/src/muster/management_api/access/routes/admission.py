"""Verifies the credentials of callers, and limits each caller's requests and each address's refused credentials."""

from fastapi.requests import HTTPConnection

from muster.common.faults import TooMany, Unauthenticated
from muster.management_api.access.domain.accepted_credentials import AcceptedCredentials
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.authentication import Callers
from muster.management_api.http.rate_limits import RateLimits, Usage

UNKNOWN = "nobody"
"""Name of an unknown caller in the audit log, and of an unknown address in the rate limits."""


class RateLimited(TooMany):
    """A caller or an address has sent too many requests. New requests are allowed after `retry_after_s` seconds."""

    def __init__(self, text: str, *, usage: Usage) -> None:
        super().__init__(text)
        self.retry_after_s = usage.reset_s


class Admission:
    """Verifies the credentials of requests and applies the rate limits of callers and addresses."""

    def __init__(self, callers: Callers, limits: RateLimits) -> None:
        self._callers, self._limits = callers, limits
        self._accepted = AcceptedCredentials()

    async def admit(self, connection: HTTPConnection) -> Principal:
        """Verify the credentials of a request, count the request, and return its caller.

        After too many refused credentials from an address, no credentials from this address are verified. Credentials
        that were accepted recently are an exception, because a client that guesses keys must not block callers with the
        same address. Raises `Unauthenticated`, `Forbidden`, `RateLimited` or `Unavailable`.
        """
        source, given = source_of(connection) or UNKNOWN, authorization_of(connection)
        if given not in self._accepted:
            refusals = await self._limits.refusals(source)
            if not refusals.allowed:
                raise RateLimited("your address has sent too many wrong or missing keys; wait", usage=refusals)
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
            raise RateLimited(
                f"{principal.name} may send only {usage.limit} requests in {usage.window_s} s; wait", usage=usage
            )
        return principal

    def concealed(self, connection: HTTPConnection) -> str:
        """Return the request's path for logs, but replace each word in it that looks like a credential."""
        return self._callers.concealed(connection.scope["path"], authorization_of(connection))[:200]


def source_of(connection: HTTPConnection) -> str | None:
    """Return the network address of the client that sent a request; None if it is unknown."""
    return connection.client.host if connection.client else None


def authorization_of(connection: HTTPConnection) -> bytes:
    """Return the unchanged bytes of the request's header `Authorization`; empty if it is missing."""
    return connection.headers.get("authorization", "").encode("latin-1")
