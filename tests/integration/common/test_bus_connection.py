"""What a connection promises beside requests: a flush is a barrier, and giving it up harms nobody.

For the order the peer is not a NATS server but something that notes in which order it is told: against a real one the
wrong order shows in one run of many.
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


async def test_what_was_subscribed_is_told_before_the_question_whether_it_arrived() -> None:
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


async def test_whoever_gives_up_waiting_for_the_server_leaves_the_connection_alive(nats_url: str) -> None:
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


async def test_whoever_gives_up_as_he_begins_to_listen_leaves_no_subscription_behind(nats_url: str) -> None:
    """Seen by what the server sends: what nobody listens to any more does not come."""
    async with open_bus(nats_url, "test") as bus, open_bus(nats_url, "asks") as asks, asyncio.timeout(PATIENCE_S):
        subject = new_id("req")
        for turns in range(30):
            listening = asyncio.ensure_future(bus.woken_by(subject).__aenter__())
            for _ in range(turns % 10):
                await asyncio.sleep(0)
            listening.cancel()
            await asyncio.wait([listening])
        await bus.flush()
        with pytest.raises(Unavailable, match="nobody answers"):
            await asks.call(subject, b"", timeout_s=10)


async def test_whoever_waits_for_a_reconnect_alone_asks_the_server_nothing(
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


async def test_whoever_begins_to_listen_while_nats_hangs_hears_once_it_goes_on(
    nats_server: Restartable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_DEADLINE_S", 1.0)
    async with open_bus(nats_server.url, "test") as bus, asyncio.timeout(PATIENCE_S):
        await nats_server.signal(signal.SIGSTOP)
        async with bus.woken_by("said") as woken:
            await nats_server.signal(signal.SIGCONT)
            await bus.send("said", b"")
            await woken.wait()
