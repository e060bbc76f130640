"""Rate limits: fixed windows of the library `limits`, counted in the memory of this process."""

import time
from ipaddress import AddressValueError, IPv6Address, IPv6Network
from math import ceil
from typing import NamedTuple

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter


class Usage(NamedTuple):
    """What is left of a rate limit."""

    allowed: bool
    limit: int
    window_s: int
    remaining: int
    reset_s: int
    """Seconds until the window ends and the whole limit is available again."""


class RateLimits:
    """Counts requests of each caller and refused credentials of each address; each replica counts for itself.

    An IPv6 address counts as its network of 64 bits, which one customer of a provider has.
    """

    def __init__(self, *, per_caller: str, per_address: str) -> None:
        """Both limits are written as `limits` writes them, for instance `100 per minute`."""
        self._per_caller, self._per_address = parse(per_caller), parse(per_address)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def count_request(self, caller: str) -> Usage:
        """Count one request of `caller`; return whether it is within the limit."""
        allowed = await self._limiter.hit(self._per_caller, "caller", caller)
        return await self._usage(self._per_caller, allowed, "caller", caller)

    async def refusals(self, address: str) -> Usage:
        """Return what `address` has left of its refusals; counts nothing."""
        network = _network(address)
        allowed = await self._limiter.test(self._per_address, "address", network)
        return await self._usage(self._per_address, allowed, "address", network)

    async def count_refusal(self, address: str) -> None:
        """Count one refused credential from `address`."""
        await self._limiter.hit(self._per_address, "address", _network(address))

    async def _usage(self, item: RateLimitItem, allowed: bool, *name: str) -> Usage:
        stats = await self._limiter.get_window_stats(item, *name)
        reset_s = max(1, ceil(stats.reset_time - time.time()))
        return Usage(allowed, item.amount, item.get_expiry(), stats.remaining, reset_s)


def _network(address: str) -> str:
    try:
        found = IPv6Address(address)
    except AddressValueError:  # an IPv4 address, or not an address
        return address
    if found.ipv4_mapped is not None:  # an IPv4 client of a socket that accepts both
        return str(found.ipv4_mapped)
    return str(IPv6Network((found, 64), strict=False))
