"""An audit entry that JetStream refuses is stored later. The audited action itself has succeeded."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from structlog.testing import capture_logs

from muster.common.bus import audit_trail
from muster.common.bus.audit_trail import AUDIT, AuditTrail
from muster.common.bus.connection import Bus, Incoming, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import ensure_stream, jetstream
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.contracts.agent_messages import Handed
from muster.common.contracts.audit import Audited
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.http.route import routes_of
from tests.support.api_application import client, in_process
from tests.support.eventually import eventually
from tests.support.servers import Restartable


@pytest.fixture
async def bus(nats_server: Restartable) -> AsyncGenerator[Bus]:
    async with open_bus(nats_server.url, "test") as bus:
        await ensure_stream(bus, AUDIT)
        yield bus


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_trail, "RETRY_S", 0.05)
    monkeypatch.setattr(audit_trail, "STORE_DEADLINE_S", 0.2)


async def limit(bus: Bus, **limits: object) -> None:
    """Set other limits of the stream; without limits, set those of its specification."""
    await jetstream(bus, f"STREAM.UPDATE.{AUDIT.name}", AUDIT.config() | limits)


@asynccontextmanager
async def storing(trail: AuditTrail) -> AsyncGenerator[None]:
    """Run a service's loop that stores waiting entries, and assert that the loop does not end."""
    loop = asyncio.create_task(trail.run())
    try:
        yield
        assert not loop.done()
    finally:
        loop.cancel()


def entry(number: int) -> Audited:
    return Audited(
        service="test", action="act", event_id=f"evt_{number}", at=utc_now(), who="me", what="it", outcome="done"
    )


async def stored(bus: Bus) -> list[str]:
    return [decode(one.body, Audited).event_id async for one in MessageStore(bus).replay(AUDIT.name, "audit.>")]


@pytest.mark.parametrize("limits", [{"max_bytes": 1, "discard": "new"}, {"max_msg_size": 1}], ids=["full", "refusing"])
async def test_entries_that_a_full_stream_refuses_are_stored_in_order_later(
    bus: Bus, limits: dict[str, object]
) -> None:
    trail = AuditTrail(bus)
    await limit(bus, **limits)
    async with storing(trail):
        for number in range(3):
            await trail.record(entry(number))
        assert await stored(bus) == []

        await limit(bus)
        await eventually(lambda: _has(bus, 3))

    assert await stored(bus) == ["evt_0", "evt_1", "evt_2"]


async def test_stream_that_cannot_be_created_yet_does_not_end_the_service(bus: Bus) -> None:
    trail = AuditTrail(bus)
    await jetstream(bus, f"STREAM.DELETE.{AUDIT.name}")
    in_the_way = {"name": "OTHER", "subjects": ["audit.>"], "no_ack": True}
    await jetstream(bus, "STREAM.CREATE.OTHER", in_the_way)
    tries: list[Incoming] = []

    async def tried(request: Incoming) -> None:
        tries.append(request)

    await bus.subscribe(f"$JS.API.STREAM.CREATE.{AUDIT.name}", tried)
    async with storing(trail):
        await trail.record(entry(0))
        await eventually(lambda: len(tries) > 1)  # The stream refused the first entry.
        await jetstream(bus, "STREAM.DELETE.OTHER")
        await eventually(lambda: _made(bus))

    assert await stored(bus) == ["evt_0"]


async def test_too_many_waiting_entries_drop_the_oldest_and_log_it(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_trail, "MOST_WAITING", 2)
    trail = AuditTrail(bus)
    await limit(bus, max_bytes=1, discard="new")
    with capture_logs() as said:
        for number in range(4):
            await trail.record(entry(number))
    await limit(bus)
    async with storing(trail):
        await eventually(lambda: _has(bus, 2))

    assert await stored(bus) == ["evt_2", "evt_3"]
    dropped = [decode(line["entry"].encode(), Audited).event_id for line in said if "entry" in line]
    assert dropped == ["evt_0", "evt_1"]


async def test_write_is_answered_with_success_while_the_audit_stream_is_full(bus: Bus) -> None:
    trail = AuditTrail(bus)
    await limit(bus, max_bytes=1, discard="new")
    things = routes_of("/things", "things")

    @things.post("", status_code=201)
    async def make_thing(_: Annotated[Principal, requires("operator")]) -> Handed:
        return Handed(agent_id="agt_1", message_id="msg_1", agent={})

    async with client(in_process(routers=[things], record=trail.record)) as caller:
        assert (await caller.post("/things")).status_code == 201

    await limit(bus)
    async with storing(trail):
        await eventually(lambda: _has(bus, 1))


async def _has(bus: Bus, number: int) -> bool:
    return len(await stored(bus)) >= number


async def _made(bus: Bus) -> bool:
    names = await jetstream(bus, "STREAM.NAMES")
    return AUDIT.name.encode() in names and bool(await stored(bus))
