"""A connection continues after its credentials are renewed, and no message is lost."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from muster.common.bus.connection import Incoming, open_bus
from muster.common.bus.consume import Consumer
from muster.common.bus.message_store import MessageStore, Stored
from muster.common.bus.streams import StreamSpec, ensure_stream
from muster.common.contract import Event
from muster.common.faults import TimedOut, Unavailable
from muster.common.nats_identity.roles import NatsRole
from tests.support.eventually import eventually
from tests.support.identity import IdentityServer
from tests.support.patience import PATIENCE_S

TTL_S = 3
RENEWALS = 3


class Numbered(Event, subject="renewed.numbered"):
    n: int


async def test_renewals_lose_no_subscription_no_request_and_no_stored_message(identity_server: IdentityServer) -> None:
    heard, handled, renewals, enough = asyncio.Event(), list[int](), 0, asyncio.Event()

    async def hear(_: Incoming) -> None:
        heard.set()

    async def handle(stored: Stored) -> None:
        handled.append(stored.position)

    def renewed() -> None:
        nonlocal renewals
        renewals += 1
        if renewals >= RENEWALS:
            enough.set()

    def mint() -> str:
        return identity_server.credentials(NatsRole.ADMIN, "renewing", ttl_s=TTL_S)

    async with (
        identity_server.bus() as other,
        open_bus(identity_server.url, "renewing", credentials=mint) as bus,
        asyncio.TaskGroup() as tasks,
    ):
        await ensure_stream(other, StreamSpec(name="RENEWED", subjects=["renewed.>"]))
        await bus.subscribe("call.me", hear)
        bus.on_reconnect(renewed)
        following = tasks.create_task(Consumer(bus, "RENEWED", "follower", handle).run())
        message_store, sent = MessageStore(bus), 0
        async with asyncio.timeout(PATIENCE_S + RENEWALS * TTL_S):
            while not enough.is_set():  # Each of these is a request over the renewed connection.
                sent = await message_store.store(Numbered(n=sent))
                assert [
                    each.position async for each in message_store.replay("RENEWED", "renewed.>", after=sent - 1)
                ] == [sent]
        async with asyncio.timeout(PATIENCE_S):
            await other.send("call.me", b"")
            await other.flush()
            await heard.wait()
            await eventually(lambda: len(handled) >= sent)
        following.cancel()

    assert handled == list(range(1, sent + 1))


async def test_replay_requested_during_a_renewal_is_answered(identity_server: IdentityServer) -> None:
    def mint() -> str:
        return identity_server.credentials(NatsRole.ADMIN, "replaying")

    async with open_bus(identity_server.url, "replaying", credentials=mint) as bus, asyncio.TaskGroup() as tasks:
        await ensure_stream(bus, StreamSpec(name="REPLAYED", subjects=["replayed.>"]))
        message_store = MessageStore(bus)
        position = await message_store.append("replayed.one", b"{}", last=0)
        for _ in range(20):
            renewal = tasks.create_task(bus.renew())
            await asyncio.sleep(0)  # The renewal has begun.
            async with asyncio.timeout(PATIENCE_S):
                assert [each.position async for each in message_store.replay("REPLAYED", "replayed.>")] == [position]
            await renewal


@pytest.mark.stress
async def test_client_reconnects_when_its_credentials_file_is_renewed_late(
    identity_server: IdentityServer, tmp_path: Path
) -> None:
    file = tmp_path / "agent.creds"
    heard = asyncio.Event()

    async def hear(_: Incoming) -> None:
        heard.set()

    async with identity_server.bus() as other, AsyncExitStack() as opened:
        file.write_text(identity_server.credentials(NatsRole.ADMIN, "late", ttl_s=5))
        bus = await opened.enter_async_context(open_bus(identity_server.url, "late", credentials=file))
        await bus.subscribe("late.call", hear)
        await eventually(lambda: not bus.connected.is_set())
        # `TimedOut` if the request is sent just before the connection closes.
        with pytest.raises((Unavailable, TimedOut)):
            await bus.call("late.nobody", b"", timeout_s=1)

        file.write_text("torn")  # A file that is written in two steps does no harm.
        file.write_text(identity_server.credentials(NatsRole.ADMIN, "late", ttl_s=600))
        async with asyncio.timeout(PATIENCE_S):
            while not heard.is_set():  # A plain message reaches only present subscribers.
                await other.send("late.call", b"")
                await asyncio.sleep(0.05)


async def test_client_closed_during_an_outage_does_not_reconnect(
    own_identity_server: IdentityServer,
) -> None:
    server = own_identity_server
    async with server.bus(NatsRole.GUARDIAN) as bus:
        await server.kill()
        await eventually(lambda: not bus.connected.is_set())
    assert bus.closed


@pytest.mark.parametrize("text", ["", "no credentials", "-----BEGIN NATS USER JWT-----\nx.y.z\n"])
async def test_invalid_credentials_name_the_wrong_variable(
    identity_server: IdentityServer, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "wrong.creds"
    file.write_text(text)
    for wrong in (file, tmp_path / "missing.creds"):
        with pytest.raises(Unavailable, match="MUSTER_NATS_CREDENTIALS"):
            async with open_bus(identity_server.url, "wrong", credentials=wrong, wait_s=1):
                pass


async def test_credentials_of_another_server_are_refused_with_an_explanation(
    identity_server: IdentityServer, own_identity_server: IdentityServer
) -> None:
    others = own_identity_server.credentials(NatsRole.ADMIN)
    with pytest.raises(Unavailable, match="refuses these credentials"):
        async with open_bus(identity_server.url, "stranger", credentials=others, wait_s=2):
            pass
