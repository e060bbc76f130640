"""The HTTP proxy through which sandboxes reach the hosts of their allow-list.

```
head ─▶ token ─▶ epoch ─▶ target ─▶ limits ─▶ allow-list ─▶ name lookup ─▶ public address? ─▶ dial ─▶ bytes
 400     407      403       400     429, 503      403           502              403            502
```
The proxy connects to one of the addresses that it has checked, and does not look the name up again. So a name that
resolves to another address the second time (DNS rebinding) reaches nothing. A name that is not on the allow-list is not
looked up at all, because a lookup could carry data out.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import h11
import structlog

from muster.common.connection_limits import ConnectionLimits
from muster.common.contracts.sandbox_log import NetworkConnection
from muster.common.faults import Fault, Forbidden
from muster.sandbox_gateway.egress.adapters.internet import Connected, HostFailed, Internet, dial_first
from muster.sandbox_gateway.egress.domain.policy import NetworkPolicy
from muster.sandbox_gateway.egress.domain.targets import Target, target_of
from muster.sandbox_gateway.egress.routes.access import ConnectionAccess
from muster.sandbox_gateway.egress.routes.client_side import ClientSide
from muster.sandbox_gateway.egress.routes.transfer import Transfer, close, forward, tunnel
from muster.sandbox_gateway.egress.store.connection_log import ConnectionLog
from muster.sandbox_gateway.egress.store.open_connections import ConnectionUse, OpenConnection, OpenConnections
from muster.sandbox_gateway.sandboxes.domain.tokens import SandboxClaims

log = structlog.get_logger()

MOST_ANONYMOUS = 256
"""Most connections that have not sent a valid token. If there are more, the oldest of these connections is closed."""
_BUFFER_BYTES = 64 << 10
_LONGEST_TARGET = 100


class EgressProxy:
    """Serves the proxy on a unix socket that every sandbox can reach."""

    def __init__(
        self,
        access: ConnectionAccess,
        policy: NetworkPolicy,
        connections: OpenConnections,
        connection_log: ConnectionLog,
        internet: Internet,
    ) -> None:
        self._access, self._policy, self._internet = access, policy, internet
        self._connections, self._log = connections, connection_log
        self._anonymous = ConnectionLimits(anonymous=MOST_ANONYMOUS, per_owner=1)
        self._handling = set[asyncio.Task[None]]()
        self._now = asyncio.get_running_loop().time

    @asynccontextmanager
    async def serving(self, listening: socket.socket) -> AsyncGenerator[None]:
        """Serve while the block runs. At the end, cut all connections and record them."""
        server = await asyncio.start_unix_server(self._handle, sock=listening, limit=_BUFFER_BYTES)
        try:
            yield
        finally:
            server.close()
            for task in self._handling:
                task.cancel()
            if self._handling:
                await asyncio.wait(self._handling)
            await self._log.flush()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handling.add(task)
        client = ClientSide(reader, writer)
        self._anonymous.add(client)
        try:
            await self._answer(client)
        except asyncio.CancelledError:
            pass  # The gateway stops, and this is the outermost function of its task.
        except OSError:
            pass  # The client has closed the connection.
        except Exception:
            log.exception("request to the proxy raised an unexpected error")
        finally:
            try:
                await close(writer)
            finally:
                self._anonymous.remove(client)
                self._handling.discard(task)

    async def _answer(self, client: ClientSide) -> None:
        try:
            request = await client.request()
            if request is None:
                return
            claims = await self._access.authorize(request)
        except Fault as fault:
            await client.refuse(fault)
            return
        text = request.target.decode("ascii", "replace")
        host, port = text[:_LONGEST_TARGET], 0
        try:
            target = target_of(request.method.decode(), text)
            host, port = target.host, target.port
            with self._connections.admitted(claims.owner) as use:
                await self._admitted(client, request, claims, target, use)
        except Fault as fault:
            allowed = isinstance(fault, HostFailed)
            refused = NetworkConnection(host=host, port=port, allowed=allowed, reason=str(fault))
            await asyncio.gather(self._log.record(claims.owner, refused), client.refuse(fault))

    async def _admitted(
        self, client: ClientSide, request: h11.Request, claims: SandboxClaims, target: Target, use: ConnectionUse
    ) -> None:
        """Answer a request that counts towards the limits of its sandbox, and no longer towards the anonymous limit."""
        self._anonymous.remove(client)
        try:
            await self._connect(client, request, claims, target, use)
        finally:
            self._anonymous.add(client)

    async def _connect(
        self, client: ClientSide, request: h11.Request, claims: SandboxClaims, target: Target, use: ConnectionUse
    ) -> None:
        if (refusal := self._policy.refusal(claims.hosts, target.host, target.port)) is not None:
            raise refusal
        if target.path is None:
            client.check_no_body()
        reader, writer = await self._dialled(target, use)
        try:
            self._access.check_again(claims)  # The epoch may have ended during the lookup and the dial.
        except Fault:
            writer.transport.abort()
            raise
        deadline = asyncio.timeout(None)
        opened = OpenConnection(target.host, target.port, self._now(), deadline)
        use.open.add(opened)
        transfer = Transfer(use, opened, deadline)
        reason = ""
        try:
            async with deadline:
                transfer.touch()
                if target.path is None:
                    await tunnel(client, reader, writer, transfer)
                    await close(writer)
                else:
                    await forward(client, request, target, reader, writer, transfer)
        except TimeoutError:
            reason = transfer.why_ended
        except HostFailed as failed:
            reason = str(failed)
            await client.refuse(failed)
        finally:
            writer.transport.abort()
            use.open.discard(opened)
            await self._log.record(claims.owner, opened.report(self._now(), still_open=False, reason=reason))
            opened.recorded.set()

    async def _dialled(self, target: Target, use: ConnectionUse) -> Connected:
        """Look the host up, and connect to one of its addresses. Raises `Forbidden` or `HostFailed`."""
        async with use.lookups:
            addresses = await self._internet.resolve(target.host)
        reachable = self._policy.reachable(target.host, target.port, addresses)
        if not reachable:
            raise Forbidden(
                f"{target.host} has only private addresses; an operator can allow it "
                f"(MUSTER_EGRESS_PRIVATE={target.host}:{target.port})"
            )
        return await dial_first(self._internet, target.host, reachable, target.port)
