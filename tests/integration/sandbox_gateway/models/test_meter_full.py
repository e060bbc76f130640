"""The sandbox gets the answer of its model call even while JetStream refuses new messages."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.streams import jetstream
from muster.common.clock import utc_now
from muster.sandbox_gateway.models.adapters.registry import ModelProviders
from muster.sandbox_gateway.models.domain.model_names import ModelNames
from muster.sandbox_gateway.models.store import ModelCallStore
from muster.sandbox_gateway.streams import MODEL_CALLS
from tests.integration.sandbox_gateway.models.test_meter import Provider, ask, asked, called, claims, meter
from tests.support.eventually import eventually
from tests.support.servers import Restartable
from tests.support.streams import GATEWAY, ensure_streams


@pytest.fixture
async def bus(nats_server: Restartable) -> AsyncGenerator[Bus]:
    async with open_bus(nats_server.url, "gateway") as bus:
        await ensure_streams(bus)
        yield bus


async def bound(bus: Bus, max_bytes: int) -> None:
    (spec,) = (spec for spec in GATEWAY if spec.name == MODEL_CALLS)
    await jetstream(bus, f"STREAM.UPDATE.{MODEL_CALLS}", spec.config() | {"max_bytes": max_bytes, "discard": "new"})


async def test_answer_is_sent_while_the_meter_is_full_and_is_metered_later(bus: Bus) -> None:
    calls, whose = ModelCallStore(bus, utc_now), claims()
    models = ModelProviders({}, otherwise=Provider(), names=ModelNames())
    await bound(bus, 1)

    done = await ask(meter(bus, models, calls, deadline_s=5.0), whose)

    assert done.body == b"{}"
    assert await called(bus, whose.sbx) == []
    metering = asyncio.create_task(calls.run())
    try:
        await asyncio.sleep(0)
        await bound(bus, -1)
        (metered,) = await eventually(lambda: called(bus, whose.sbx))
        assert (metered.usage, metered.prompt_tokens) == ("measured", 7)
        assert await eventually(lambda: emptied(bus, whose.sbx))
    finally:
        metering.cancel()


async def emptied(bus: Bus, sandbox_id: str) -> bool:
    return not await asked(bus, sandbox_id)
