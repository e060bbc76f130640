"""An internet that looks nothing up and dials nothing: hosts and servers are those of the test."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address

from muster.common.host_rules import is_address
from muster.sandbox_gateway.egress.adapters.internet import Connected, HostFailed
from muster.sandbox_gateway.egress.domain.addresses import Address

Served = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class InternetDouble:
    """Records what was looked up and dialled. Each dialled connection ends at `serve`, on a socket pair."""

    def __init__(self, names: Mapping[str, Sequence[str]], serve: Served) -> None:
        self.names, self.serve = dict(names), serve
        self.resolved, self.dialled = list[str](), list[tuple[str, int]]()
        self._tasks = set[asyncio.Task[None]]()

    async def resolve(self, host: str) -> Sequence[Address]:
        """Return the addresses of the test."""
        if is_address(host):
            return [ip_address(host.strip("[]"))]
        self.resolved.append(host)
        if host not in self.names:
            raise HostFailed(f"the name {host} cannot be resolved")
        return [ip_address(text) for text in self.names[host]]

    async def dial(self, address: Address, port: int) -> Connected:
        """Connect to the test's server."""
        import socket

        self.dialled.append((str(address), port))
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=far)
        task = asyncio.get_running_loop().create_task(self._served(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.open_connection(sock=near)

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.serve(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()
