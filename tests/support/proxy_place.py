"""A proxy of sandboxes on a real unix socket, with real sandbox logs. The internet is a double: nothing is dialled."""

import asyncio
import time
from pathlib import Path

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.contracts.sandbox_log import (
    Frame,
    FrameKind,
    NetworkConnection,
    Opened,
    log_stream,
    log_subject,
    partition,
)
from muster.common.ids import new_id
from muster.sandbox_gateway.egress.domain.policy import NetworkPolicy
from muster.sandbox_gateway.egress.routes.access import ConnectionAccess
from muster.sandbox_gateway.egress.routes.proxy import EgressProxy
from muster.sandbox_gateway.egress.store.connection_log import ConnectionLog
from muster.sandbox_gateway.egress.store.open_connections import OpenConnections
from muster.sandbox_gateway.http.access import WorkerAccess
from muster.sandbox_gateway.http.request_allowance import SandboxAllowances
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner, control
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandbox_log.store.zombies import ZombieWrites
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring, SandboxClaims
from tests.support.gateway import KEYS
from tests.support.internet_double import InternetDouble
from tests.support.patience import PATIENCE_S

NAMES = {
    "public.example": ["203.0.112.5"],
    "rebound.example": ["127.0.0.1"],
    "mixed.example": ["10.0.0.1", "::ffff:127.0.0.1", "203.0.112.9"],
    "metadata.example": ["169.254.169.254", "fe80::1", "64:ff9b::a9fe:a9fe"],
    "index.example": ["127.0.0.1"],
}
ALLOWED = ",".join([*NAMES, "unknown.example", "203.0.112.7", "127.0.0.1", "*.sub.example"])


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
        await writer.drain()


class ProxyPlace:
    """A proxy with its parts, and the sandbox logs that it writes."""

    def __init__(self, bus: Bus, path: Path) -> None:
        self.bus, self.path = bus, path
        self.internet = InternetDouble(NAMES, echo)
        self.log = SandboxLog(bus, Headroom(bus, max_bytes=-1))
        self.fences = FenceStore(bus)
        self.connections = OpenConnections(time.monotonic)
        self.connection_log = ConnectionLog(self.log, self.connections, time.monotonic)
        self.fences.on_fence(self.connections.cut)
        self.keyring = Keyring.parsed(KEYS)
        self.clients = list[ProxyClient]()

    def proxy(self) -> EgressProxy:
        zombies = ZombieWrites(self.bus, "test")
        access = WorkerAccess(self.keyring, self.fences, zombies, self.log, utc_now, SandboxAllowances(time.monotonic))
        return EgressProxy(
            ConnectionAccess(self.keyring, access, self.log),
            NetworkPolicy("allow-list", ALLOWED, "index.example:8080"),
            self.connections,
            self.connection_log,
            self.internet,
        )

    async def sandbox(self, *, hosts: tuple[str, ...] | None = (), expires_s: int = 600) -> tuple[LogOwner, str]:
        owner = LogOwner(new_id("sbx"), new_id("tsk"), new_id("agt"), 1)
        opened = Opened(package="echo", model="m", conversation_id="c")
        await self.log.append([control(owner, FrameKind.OPENED, opened)])
        expires = int(utc_now().timestamp()) + expires_s
        claims = SandboxClaims(owner.sandbox_id, owner.task_id, owner.agent_id, owner.epoch, expires, "m", hosts=hosts)
        return owner, self.keyring.sign(claims)

    async def connect(self, head: str | bytes, token: str | None = None) -> "ProxyClient":
        reader, writer = await asyncio.open_unix_connection(self.path)
        client = ProxyClient(reader, writer)
        self.clients.append(client)
        credential = f"\r\nProxy-Authorization: Bearer {token}" if token else ""
        whole = f"{head}{credential}\r\nHost: x\r\n\r\n".encode() if isinstance(head, str) else head
        writer.write(whole)
        return client

    async def status(self, head: str | bytes, token: str | None = None) -> tuple[int, str]:
        """Send a request; return the status and the reason of the answer, and close the connection."""
        async with asyncio.timeout(PATIENCE_S):
            client = await self.connect(head, token)
            status = await client.head()
            client.writer.close()
            return status

    async def recorded(self, owner: LogOwner) -> list[NetworkConnection]:
        stream, subject = log_stream(partition(owner.sandbox_id)), log_subject(owner.sandbox_id)
        stored = [decode(one.body, Frame) async for one in MessageStore(self.bus).replay(stream, subject)]
        return [decode(bytes(frame.body), NetworkConnection) for frame in stored if frame.kind is FrameKind.CONNECTION]

    async def settled(self, owner: LogOwner) -> list[NetworkConnection]:
        """Return all connections of a sandbox, after those that were added up are recorded too."""
        await self.connection_log.settle(owner.sandbox_id)
        return await self.recorded(owner)


class ProxyClient:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def head(self) -> tuple[int, str]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        _, status, reason = head.split("\r\n")[0].split(" ", 2)
        return int(status), reason
