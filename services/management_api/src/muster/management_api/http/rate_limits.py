"""Counts requests in fixed time windows with the library `limits`. The counts are in the memory of this process."""

import time
from ipaddress import AddressValueError, IPv6Address, IPv6Network
from math import ceil
from typing import NamedTuple

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter


class Usage(NamedTuple):
    """The use of a rate limit: whether a request is allowed, and how many more requests are allowed."""

    allowed: bool
    limit: int
    window_s: int
    remaining: int
    reset_s: int
    """Seconds until the time window ends and the whole limit is available again."""


class RateLimits:
    """Counts the requests of each caller, and the refused credentials of each client address.

    Each replica has its own counts. All addresses of one IPv6 network of 64 bits are counted together, because one
    customer of an internet provider has such a network.
    """

    def __init__(self, *, per_caller: str, per_address: str) -> None:
        """Set the limits for a caller's requests and for an address's refused credentials, as in `100 per minute`."""
        self._per_caller, self._per_address = parse(per_caller), parse(per_address)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def count_request(self, caller: str) -> Usage:
        """Count one request of `caller`, and return the use of the caller's rate limit."""
        allowed = await self._limiter.hit(self._per_caller, "caller", caller)
        return await self._usage(self._per_caller, allowed, "caller", caller)

    async def refusals(self, address: str) -> Usage:
        """Return how many more refused credentials are allowed from `address`. The call itself is not counted."""
        network = _network(address)
        allowed = await self._limiter.test(self._per_address, "address", network)
        return await self._usage(self._per_address, allowed, "address", network)

    async def count_refusal(self, address: str) -> None:
        """Count one refused credential that was sent from `address`."""
        await self._limiter.hit(self._per_address, "address", _network(address))

    async def _usage(self, item: RateLimitItem, allowed: bool, *name: str) -> Usage:
        stats = await self._limiter.get_window_stats(item, *name)
        reset_s = max(1, ceil(stats.reset_time - time.time()))
        return Usage(allowed, item.amount, item.get_expiry(), stats.remaining, reset_s)


def _network(address: str) -> str:
    try:
        found = IPv6Address(address)
    except AddressValueError:  # An address that is not IPv6 has its own count.
        return address
    if found.ipv4_mapped is not None:  # The socket accepts IPv4 and IPv6, and the client uses IPv4.
        return str(found.ipv4_mapped)
    return str(IPv6Network((found, 64), strict=False))
