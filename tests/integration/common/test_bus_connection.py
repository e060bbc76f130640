"""Guarantees of a connection besides requests: a flush is a barrier, and a cancelled flush does no harm.

The tests of the order use a peer that records the order of commands instead of a NATS server. With a real server a
wrong order would show in only one of many runs.
"""

import asyncio
import signal

import pytest

from muster.common.bus import connection
from muster.common.bus.connection import Incoming, open_bus
from muster.common.faults import Unavailable
from muster.common.ids import new_id
from tests.support.patience import PATIENCE_S, PROMPT_S
from tests.support.servers import Restartable

INFO = b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"headers":true}\r\n'


async def test_subscription_is_sent_before_the_ping_of_a_flush() -> None:
    lines: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        async for line in reader:
            lines.append(line)
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    async def hear(_: Incoming) -> None:
        pass

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    async with server, open_bus(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", "tells") as bus:
        await bus.subscribe("one", hear)
        await bus.subscribe("two", hear)
        await bus.send("three", b"")
        await bus.flush()
        told = [line.split()[0:2] for line in lines if line.startswith((b"SUB", b"PUB", b"PING"))]

    assert told == [[b"PING"], [b"SUB", b"one"], [b"SUB", b"two"], [b"PUB", b"three"], [b"PING"]]


async def test_cancelled_flush_leaves_the_connection_usable(nats_url: str) -> None:
    async with open_bus(nats_url, "test") as bus, asyncio.timeout(PATIENCE_S):
        heard = asyncio.Event()

        async def hear(_: object) -> None:
            heard.set()

        await bus.subscribe(subject := new_id("req"), hear)
        for turns in range(30):
            waiting = asyncio.ensure_future(bus.flush())
            for _ in range(turns % 10):
                await asyncio.sleep(0)
            waiting.cancel()
        await bus.flush()
        await bus.send(subject, b"")
        await heard.wait()
        assert bus.connected.is_set()


async def test_cancelled_subscribe_leaves_no_subscription(nats_url: str) -> None:
    """The test checks that the server sends no message for the cancelled subscription."""
    async with open_bus(nats_url, "test") as bus, open_bus(nats_url, "asks") as asks, asyncio.timeout(PATIENCE_S):
        subject = new_id("req")
        for turns in range(30):
            listening = asyncio.ensure_future(bus.woken_by(subject).__aenter__())
            for _ in range(turns % 10):
                await asyncio.sleep(0)
            listening.cancel()
            await asyncio.wait([listening])
        await bus.flush()
        with pytest.raises(Unavailable, match="no service answers"):
            await asks.call(subject, b"", timeout_s=10)


async def test_wait_for_a_reconnect_sends_nothing_to_the_server(
    nats_server: Restartable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_DEADLINE_S", PATIENCE_S)
    async with open_bus(nats_server.url, "test") as bus:
        await nats_server.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(PROMPT_S), bus.woken_by():
                assert bus.connected.is_set()
        finally:
            await nats_server.signal(signal.SIGCONT)


async def test_subscription_made_while_nats_hangs_works_when_nats_continues(
    nats_server: Restartable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_DEADLINE_S", 1.0)
    async with open_bus(nats_server.url, "test") as bus, asyncio.timeout(PATIENCE_S):
        await nats_server.signal(signal.SIGSTOP)
        async with bus.woken_by("said") as woken:
            await nats_server.signal(signal.SIGCONT)
            await bus.send("said", b"")
            await woken.wait()
