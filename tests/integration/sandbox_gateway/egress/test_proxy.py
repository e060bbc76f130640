"""The proxy of sandboxes, on a real unix socket and with real sandbox logs. The internet is a double: nothing is dialled."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import ensure_stream
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.contracts.sandbox_log import (
    Fenced,
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
from muster.sandbox_gateway.egress.routes.client_side import MOST_HEAD_BYTES
from muster.sandbox_gateway.egress.routes.proxy import EgressProxy
from muster.sandbox_gateway.egress.store.connection_log import ConnectionLog
from muster.sandbox_gateway.egress.store.open_connections import PER_SANDBOX, OpenConnections
from muster.sandbox_gateway.http.access import WorkerAccess
from muster.sandbox_gateway.http.request_allowance import SandboxAllowances
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner, control
from muster.sandbox_gateway.sandbox_log.store.fences import Fence, FenceStore
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandbox_log.store.zombies import ZombieWrites
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring, SandboxClaims
from muster.sandbox_gateway.streams import specs
from tests.support.eventually import eventually
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


@pytest.fixture
async def place(tmp_path: Path, nats_url: str) -> AsyncGenerator[ProxyPlace]:
    async with AsyncExitStack() as opened:
        bus = await opened.enter_async_context(open_bus(nats_url, "test"))
        for spec in specs(-1):
            await ensure_stream(bus, spec)
        place = ProxyPlace(bus, tmp_path / "egress.sock")
        await place.fences.ensure()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(place.path))
        listening.listen()
        await opened.enter_async_context(place.proxy().serving(listening))
        yield place
        for client in place.clients:
            client.writer.close()


async def test_allowed_host_is_reached_and_its_bytes_are_recorded(place: ProxyPlace):
    owner, token = await place.sandbox()
    async with asyncio.timeout(PATIENCE_S):
        client = await place.connect("CONNECT PUBLIC.example.:443 HTTP/1.1", token)
        assert (await client.head())[0] == 200
        client.writer.write(b"hello")
        assert await client.reader.readexactly(5) == b"hello"
        client.writer.write_eof()
        assert await client.reader.read() == b""
    (made,) = await eventually(lambda: place.recorded(owner))
    assert (made.host, made.port, made.allowed, made.reason) == ("public.example", 443, True, "")
    assert (made.sent_bytes, made.received_bytes, made.connections, made.open) == (5, 5, 1, 0)
    assert place.internet.dialled == [("203.0.112.5", 443)]


@pytest.mark.parametrize(
    "target",
    [
        *("evil.example:443", "public.example:22", "public.example:8443", "sub.example:443", "localhost:443"),
        *("rebound.example:443", "metadata.example:80", "index.example:80", "127.0.0.1:80", "127.0.0.1:8710"),
        *("[::1]:443", "[::ffff:7f00:1]:443", "169.254.169.254:80", "gateway:80", "xn--pblic-kva.example:443"),
    ],
)
async def test_host_or_address_that_is_not_allowed_is_refused_and_recorded_and_not_dialled(
    place: ProxyPlace, target: str
):
    owner, token = await place.sandbox()
    status, reason = await place.status(f"CONNECT {target} HTTP/1.1", token)
    assert status == 403
    assert "allow" in reason or "private" in reason
    assert place.internet.dialled == []
    (made,) = await place.recorded(owner)
    assert not made.allowed
    assert made.reason


@pytest.mark.parametrize(
    "line",
    [
        *("CONNECT 2130706433:80", "CONNECT 0x7f000001:80", "CONNECT 0177.0.0.1:80", "CONNECT 127.1:80"),
        *("CONNECT user@public.example:443", "CONNECT public.example", "CONNECT public.example:0", "CONNECT :443"),
        *("GET /", "GET https://public.example/", "GET http://user@public.example/", "GET http://127.1/", "GET x"),
    ],
)
async def test_unusual_target_is_refused_and_recorded(place: ProxyPlace, line: str):
    owner, token = await place.sandbox()
    assert (await place.status(f"{line} HTTP/1.1", token))[0] == 400
    assert (place.internet.resolved, place.internet.dialled) == ([], [])
    (made,) = await place.recorded(owner)
    assert not made.allowed


async def test_name_that_is_not_allowed_is_not_even_looked_up(place: ProxyPlace):
    _, token = await place.sandbox()
    await place.status("CONNECT secret-data.evil.example:443 HTTP/1.1", token)
    assert place.internet.resolved == []


async def test_only_the_public_one_of_several_addresses_is_dialled_and_the_name_is_looked_up_once(place: ProxyPlace):
    _, token = await place.sandbox()
    assert (await place.status("CONNECT mixed.example:443 HTTP/1.1", token))[0] == 200
    assert place.internet.dialled == [("203.0.112.9", 443)]
    assert place.internet.resolved == ["mixed.example"]


async def test_private_address_is_reached_only_at_the_port_that_the_operator_lists(place: ProxyPlace):
    _, token = await place.sandbox()
    assert (await place.status("CONNECT index.example:80 HTTP/1.1", token))[0] == 403
    assert place.internet.dialled == []


async def test_host_that_cannot_be_resolved_is_shown_as_a_failure_and_not_as_a_refusal(place: ProxyPlace):
    owner, token = await place.sandbox()
    assert (await place.status("CONNECT unknown.example:443 HTTP/1.1", token))[0] == 502
    (made,) = await place.recorded(owner)
    assert made.allowed
    assert "cannot be resolved" in made.reason


@pytest.mark.parametrize(("hosts", "status"), [(None, 403), (("index.example",), 403), (("public.example",), 200)])
async def test_task_reaches_only_the_hosts_that_it_names(place: ProxyPlace, hosts: tuple[str, ...], status: int):
    _, token = await place.sandbox(hosts=hosts)
    assert (await place.status("CONNECT public.example:443 HTTP/1.1", token))[0] == status


async def test_request_without_a_valid_token_is_refused(place: ProxyPlace):
    _, expired = await place.sandbox(expires_s=-1)
    _, token = await place.sandbox()
    line = "CONNECT public.example:443 HTTP/1.1"
    for wrong in (None, "wrong", expired, token[:-4] + "AAAA"):
        assert (await place.status(line, wrong))[0] == 407
    twice = f"{line}\r\nProxy-Authorization: Basic eDp5"
    assert (await place.status(twice, token))[0] == 400
    assert place.internet.dialled == []


async def test_fence_cuts_open_connections_and_refuses_new_ones(place: ProxyPlace):
    owner, token = await place.sandbox()
    async with asyncio.timeout(PATIENCE_S):
        client = await place.connect("CONNECT public.example:443 HTTP/1.1", token)
        assert (await client.head())[0] == 200
        await place.fences.add(owner.sandbox_id, Fence(epoch=1, reason="replaced", at=utc_now()))
        assert await client.reader.read() == b""
    assert (await place.status("CONNECT public.example:443 HTTP/1.1", token))[0] == 403


async def test_ended_epoch_is_refused_by_its_log_alone(place: ProxyPlace):
    owner, token = await place.sandbox()
    await place.log.append([control(owner, FrameKind.FENCED, Fenced(reason="replaced"))])
    assert (await place.status("CONNECT public.example:443 HTTP/1.1", token))[0] == 403


async def test_connections_are_ended_and_recorded_before_the_run_ends(place: ProxyPlace):
    owner, token = await place.sandbox()
    async with asyncio.timeout(PATIENCE_S):
        client = await place.connect("CONNECT public.example:443 HTTP/1.1", token)
        await client.head()
        client.writer.write(b"left open")
        await client.reader.readexactly(9)
        (made,) = await place.settled(owner)
        assert (made.sent_bytes, made.open) == (9, 0)
        assert "run of the sandbox" in made.reason
        assert await client.reader.read() == b""


async def test_many_refusals_become_few_frames(place: ProxyPlace):
    owner, token = await place.sandbox()
    for _ in range(30):
        await place.status("CONNECT evil.example:443 HTTP/1.1", token)
    assert len(await place.recorded(owner)) == 1
    first, others = await place.settled(owner)
    assert (first.connections, others.connections) == (1, 29)


async def test_sandbox_has_a_limit_of_open_connections_and_others_are_not_affected(place: ProxyPlace):
    _, token = await place.sandbox()
    _, other = await place.sandbox()
    line = "CONNECT public.example:443 HTTP/1.1"
    async with asyncio.timeout(PATIENCE_S):
        clients = [await place.connect(line, token) for _ in range(PER_SANDBOX)]
        assert {(await client.head())[0] for client in clients} == {200}
        assert (await place.status(line, token))[0] == 429
        assert (await place.status(line, other))[0] == 200
        for client in clients:
            client.writer.close()


async def test_head_that_is_too_long_is_refused(place: ProxyPlace):
    _, token = await place.sandbox()
    line = "CONNECT public.example:443 HTTP/1.1\r\nX: " + "x" * (2 * MOST_HEAD_BYTES)
    assert (await place.status(line, token))[0] == 431


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"CONNECT public.example:443\r\n\r\n",
        b"GET http://public.example/ HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST http://public.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"POST http://public.example/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"GET http://public.example/\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_request_that_is_not_plain_http_is_refused(place: ProxyPlace, head: bytes):
    status, _ = await place.status(head)
    assert status in (400, 501)
    assert place.internet.dialled == []


async def test_plain_request_is_written_anew_and_carries_no_second_request(place: ProxyPlace):
    owner, token = await place.sandbox()
    got = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.readuntil(b"\r\n\r\n"))
        got.extend(await reader.readexactly(5))
        writer.write(b"HTTP/1.1 200 OK\r\nKeep-Alive: 9\r\nX-A: b\r\nContent-Length: 4\r\n\r\ndone")
        got.extend(await reader.read())

    place.internet.serve = serve
    request = (
        "POST http://public.example/a?b HTTP/1.1\r\n"
        f"Proxy-Authorization: Bearer {token}\r\n"
        "Host: evil.example\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nProxy-Connection: keep-alive\r\n"
        "Content-Length: 5\r\n\r\nhello"
        "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    )
    async with asyncio.timeout(PATIENCE_S):
        client = await place.connect(request.encode())
        answer = await client.reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"done"
    assert b"keep-alive" not in head.lower()
    assert b"connection: close" in head.lower()
    assert bytes(got).startswith(b"POST /a?b HTTP/1.1\r\n")
    assert b"evil" not in got
    assert b"Bearer" not in got
    assert b"x-hop" not in got.lower()
    assert got.lower().count(b"host: public.example\r\n") == 1
    (made,) = await place.settled(owner)
    assert made.allowed
    assert made.sent_bytes == len(got)


async def test_connect_with_a_body_is_refused(place: ProxyPlace):
    _, token = await place.sandbox()
    assert (await place.status("CONNECT public.example:443 HTTP/1.1\r\nContent-Length: 3", token))[0] == 400
    assert place.internet.dialled == []


async def test_host_that_answers_no_http_is_a_bad_gateway(place: ProxyPlace):
    _, token = await place.sandbox()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    place.internet.serve = serve
    assert (await place.status("GET http://public.example/ HTTP/1.1", token))[0] == 502
