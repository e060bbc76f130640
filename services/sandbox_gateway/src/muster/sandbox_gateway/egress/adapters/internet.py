"""Resolves host names with the system's resolver, and connects to the addresses that were checked."""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Any, Protocol

from muster.common.faults import Fault
from muster.common.host_rules import is_address
from muster.sandbox_gateway.egress.domain.addresses import Address

RESOLVE_S, DIAL_S = 10.0, 20.0
_ONE_DIAL_S = 6.0
_MOST_ADDRESSES = 8
_BUFFER_BYTES = 64 << 10
_LOOKUPS_AT_ONCE = 64
"""Threads for lookups. The system may take 30 s for a name that no server answers, and cannot end such a lookup."""

type Connected = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HostFailed(Fault):
    """A host that the sandbox may reach could not be resolved, did not accept a connection, or sent no valid answer."""

    status, code = 502, "host_failed"


class Internet(Protocol):
    """Resolves names and opens connections. Tests replace it, so that nothing is looked up and dialled."""

    async def resolve(self, host: str) -> Sequence[Address]:
        """Return the addresses of a host in its normal form. Raises `HostFailed`."""
        ...

    async def dial(self, address: Address, port: int) -> Connected:
        """Connect to an address. Raises `OSError`."""
        ...


class SystemInternet:
    """The internet as the gateway's host reaches it. Slow lookups of names delay only other lookups of the proxy."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, "name-lookup")
        self._lookups = dict[str, asyncio.Future[list[Any]]]()

    def close(self) -> None:
        """End the threads that look up names, as soon as their lookups have ended."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def resolve(self, host: str) -> Sequence[Address]:
        """Return the addresses of a host, in the order of the system's resolver."""
        if is_address(host):
            return [ip_address(host.strip("[]"))]
        try:
            async with asyncio.timeout(RESOLVE_S):
                found = await asyncio.shield(self._lookup(host))
        except TimeoutError:
            raise HostFailed(f"the name {host} was not resolved within {RESOLVE_S:g} s") from None
        except (OSError, UnicodeError):
            raise HostFailed(f"the name {host} cannot be resolved") from None
        # A link-local IPv6 address has a zone after `%`, which makes it no less link-local.
        return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))

    def _lookup(self, host: str) -> "asyncio.Future[list[Any]]":
        """Return the running lookup of a name, or start one: requests for one name take one thread together."""
        if (running := self._lookups.get(host)) is not None:
            return running
        work = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        lookup = self._lookups[host] = asyncio.get_running_loop().run_in_executor(self._threads, work)

        def ended(done: "asyncio.Future[list[Any]]") -> None:
            self._lookups.pop(host, None)
            if not done.cancelled():
                done.exception()  # asyncio logs an error that is never read, and all requests may have timed out.

        lookup.add_done_callback(ended)
        return lookup

    async def dial(self, address: Address, port: int) -> Connected:
        """Connect to an address."""
        return await asyncio.open_connection(str(address), port, limit=_BUFFER_BYTES)


async def dial_first(internet: Internet, host: str, addresses: Sequence[Address], port: int) -> Connected:
    """Connect to the first of these addresses that answers. Raises `HostFailed` if none does within 20 s."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DIAL_S):
            for address in addresses[:_MOST_ADDRESSES]:
                with suppress(OSError):
                    async with asyncio.timeout(_ONE_DIAL_S):
                        return await internet.dial(address, port)
    raise HostFailed(f"no connection to {host}:{port} could be made")
