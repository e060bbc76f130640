"""TLS to NATS and PostgreSQL: the server is verified, and nothing is sent to a server without TLS."""

import asyncio
import ssl
import struct
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from muster.agent.nats_connection import open_nats_connection
from muster.common.bus.connection import open_bus
from muster.common.contracts.agent_process import ProcessHandoff
from muster.common.faults import Unavailable
from muster.common.postgres.connection import connect
from muster.common.settings import DatabaseSettings
from muster.common.tls import TlsFiles
from muster.embedded.nats_server import NatsServer
from tests.support.certificates import CertificateAuthority, Pair
from tests.support.patience import PATIENCE_S
from tests.support.servers import running
from tests.support.tls_nats import TlsNats

SSL_REQUEST = struct.pack("!II", 8, 80877103)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls_nats(authority: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    home = tmp_path_factory.mktemp("tls-nats")
    with running(TlsNats(home, authority, authority.signed("nats"), asks_for_one=True)) as server:
        yield server


@pytest.fixture
def plain_tls_nats(authority: CertificateAuthority, tmp_path: Path) -> Iterator[NatsServer]:
    with running(TlsNats(tmp_path, authority, authority.signed("nats"), asks_for_one=False)) as server:
        yield server


async def test_connection_to_nats_is_encrypted_and_both_sides_are_checked(
    tls_nats: NatsServer, authority: CertificateAuthority
) -> None:
    mine = authority.signed("client")
    files = TlsFiles(ca_file=authority.file, cert_file=mine.cert, key_file=mine.key)
    async with open_bus(tls_nats.url, "test", tls=files, wait_s=PATIENCE_S) as bus:
        heard = asyncio.Event()

        async def hear(_: object) -> None:
            heard.set()

        await bus.subscribe("tls.test", hear)
        await bus.send("tls.test", b"hello")
        async with asyncio.timeout(PATIENCE_S):
            await heard.wait()


async def test_agent_verifies_nats_with_the_authorities_of_its_handoff(
    plain_tls_nats: NatsServer, authority: CertificateAuthority, tmp_path: Path
) -> None:
    stranger = CertificateAuthority(tmp_path, "stranger")
    told: dict[str, Any] = {"agent_id": "agt_tls", "launch": 1, "name": "a", "agent_type": "echo", "agent_version": "1"}
    told |= {"config": {}, "nats_url": plain_tls_nats.url, "credentials": "", "credentials_file": "", "state_dir": ""}
    async with open_nats_connection(ProcessHandoff(**told, nats_authorities=authority.file.read_text())) as bus:
        assert bus.connected.is_set()
    with pytest.raises(Unavailable, match="no TLS with NATS"):
        async with open_nats_connection(ProcessHandoff(**told, nats_authorities=stranger.file.read_text())):
            pass


async def test_client_without_a_certificate_is_refused_if_nats_requires_one(
    tls_nats: NatsServer, authority: CertificateAuthority
) -> None:
    with pytest.raises(Unavailable):
        async with open_bus(tls_nats.url, "test", tls=TlsFiles(ca_file=authority.file), wait_s=1):
            pass


async def test_nats_with_a_certificate_of_another_authority_is_refused(tls_nats: NatsServer, tmp_path: Path) -> None:
    files = TlsFiles(ca_file=CertificateAuthority(tmp_path, "stranger").file)
    with pytest.raises(Unavailable, match="MUSTER_NATS_TLS_CA_FILE"):
        async with open_bus(tls_nats.url, "test", tls=files, wait_s=PATIENCE_S):
            pass


@pytest.mark.parametrize("by_url", [False, True])
async def test_nothing_is_sent_to_a_nats_that_offers_no_tls(authority: CertificateAuthority, by_url: bool) -> None:
    received = bytearray()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            writer.write(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576,"nonce":"abc"}\r\n')
            received.extend(await reader.read(1000))

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    address = f"muster:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        with pytest.raises(Unavailable, match="no TLS with NATS"):
            async with open_bus(
                f"{'tls' if by_url else 'nats'}://{address}",
                "test",
                tls=None if by_url else TlsFiles(ca_file=authority.file),
                wait_s=PATIENCE_S,
            ):
                pass
    assert received == b""


@asynccontextmanager
async def tls_postgres(url: str, pair: Pair, *, offers_tls: bool = True) -> AsyncGenerator[str]:
    """The URL of a TLS proxy for the PostgreSQL at `url`, because the server of the wheel is built without TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    there = urlsplit(url)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST
        writer.write(b"S" if offers_tls else b"N")
        if offers_tls:
            try:
                await writer.start_tls(context)
            except OSError:  # The client refuses the test's certificate.
                return
        inner_reader, inner_writer = await asyncio.open_connection(there.hostname, there.port)
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(reader, inner_writer))
            both.create_task(_copy(inner_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield there._replace(netloc=f"{there.username}:{there.password}@127.0.0.1:{port}").geturl()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with closing(sink):
        try:
            while chunk := await source.read(1 << 16):
                sink.write(chunk)
                await sink.drain()
        except OSError:
            return


def settings(url: str, **files: Path) -> DatabaseSettings:
    told: dict[str, Any] = {"database_url": url, **{f"database_tls_{name}": path for name, path in files.items()}}
    return DatabaseSettings(**told)


async def test_connection_to_postgresql_is_encrypted_and_its_server_checked(
    database_url: str, authority: CertificateAuthority, tmp_path: Path
) -> None:
    async with tls_postgres(database_url, authority.signed("postgres")) as url:
        connection = await connect(settings(url, ca_file=authority.file).database)
        assert await connection.fetchval("SELECT 1") == 1
        connection.terminate()
        stranger = CertificateAuthority(tmp_path, "stranger")
        with pytest.raises(Unavailable, match="MUSTER_DATABASE_TLS_CA_FILE"):
            await connect(settings(url, ca_file=stranger.file).database)


async def test_postgresql_at_another_address_than_its_certificate_s_is_refused(
    database_url: str, authority: CertificateAuthority
) -> None:
    async with tls_postgres(database_url, authority.signed("elsewhere", address="127.0.0.2")) as url:
        with pytest.raises(Unavailable, match="no TLS with PostgreSQL"):
            await connect(settings(url, ca_file=authority.file).database)


async def test_postgresql_that_offers_no_tls_is_refused(database_url: str, authority: CertificateAuthority) -> None:
    async with tls_postgres(database_url, authority.signed("plain"), offers_tls=False) as url:
        with pytest.raises(Unavailable):
            await connect(settings(url, ca_file=authority.file).database)


@pytest.mark.parametrize(
    ("files", "query", "said"),
    [
        ({"cert_file": "client.crt", "key_file": "client.key"}, "", "MUSTER_DATABASE_TLS_CA_FILE is missing"),
        ({"ca_file": "ca.pem", "cert_file": "client.crt"}, "", "set MUSTER_DATABASE_TLS_CERT_FILE and"),
        ({"ca_file": "nowhere.pem"}, "", "cannot be used: No such file"),
        ({"ca_file": "client.key"}, "", "cannot be used"),
        ({"ca_file": "ca.pem"}, "?sslmode=disable", "remove one of them"),
    ],
)
def test_tls_files_that_cannot_be_used_are_refused_at_start(
    authority: CertificateAuthority, files: dict[str, str], query: str, said: str
) -> None:
    folder = authority.signed("client").cert.parent
    with pytest.raises(ValueError, match=said):
        settings(f"postgresql://u:p@h/d{query}", **{name: folder / file for name, file in files.items()})
