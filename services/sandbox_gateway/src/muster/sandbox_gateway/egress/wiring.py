"""Makes the proxy of the sandboxes and the record of its connections, from the gateway's settings."""

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from muster.sandbox_gateway.egress.adapters.internet import SystemInternet
from muster.sandbox_gateway.egress.domain.policy import NetworkPolicy
from muster.sandbox_gateway.egress.routes.access import ConnectionAccess
from muster.sandbox_gateway.egress.routes.proxy import EgressProxy
from muster.sandbox_gateway.egress.store.connection_log import ConnectionLog
from muster.sandbox_gateway.egress.store.open_connections import OpenConnections
from muster.sandbox_gateway.http.access import WorkerAccess
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring
from muster.sandbox_gateway.settings import GatewaySettings


def network_policy(settings: GatewaySettings) -> NetworkPolicy:
    """Return the rules for the network of sandboxes. Raises `InvalidMessage` for a wrong entry in a setting."""
    return NetworkPolicy(settings.sandbox_network, settings.egress_allowed, settings.egress_private)


class Egress:
    """The parts of the proxy in one gateway process."""

    def __init__(self, policy: NetworkPolicy, log: SandboxLog, fences: FenceStore, now_s: Callable[[], float]) -> None:
        self._policy, self._log = policy, log
        self._connections = OpenConnections(now_s)
        self.connection_log = ConnectionLog(log, self._connections, now_s)
        fences.on_fence(self._connections.cut)

    @asynccontextmanager
    async def serving(self, listening: socket.socket, keyring: Keyring, access: WorkerAccess) -> AsyncGenerator[None]:
        """Serve the proxy on a listening unix socket while the block runs."""
        internet = SystemInternet()
        proxy = EgressProxy(
            ConnectionAccess(keyring, access, self._log),
            self._policy,
            self._connections,
            self.connection_log,
            internet,
        )
        try:
            async with proxy.serving(listening):
                yield
        finally:
            internet.close()
