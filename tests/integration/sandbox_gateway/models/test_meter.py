"""Every model call is recorded by the meter, and a call that times out repeatedly is refused."""

import asyncio
import json
import signal
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.contracts.model_calls import ModelAsked, ModelCalled
from muster.common.contracts.sandbox_log import partition
from muster.common.faults import TimedOut, Unavailable
from muster.common.ids import new_id
from muster.sandbox_gateway.models.adapters.registry import ModelProviders
from muster.sandbox_gateway.models.domain.answers import Completion
from muster.sandbox_gateway.models.domain.model_names import ModelNames
from muster.sandbox_gateway.models.domain.provider_errors import ModelTooSlow
from muster.sandbox_gateway.models.routes.failures import FailedCallLog
from muster.sandbox_gateway.models.routes.metering import RESERVED_TOKENS, MeteredModels
from muster.sandbox_gateway.models.store import ModelCallStore
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.domain.tokens import SandboxClaims
from tests.support.eventually import eventually
from tests.support.gateway import without_shim
from tests.support.servers import Restartable
from tests.support.streams import ensure_streams

REQUEST: dict[str, Any] = {"model": "openai/x", "messages": [{"role": "user", "content": "hi " * 100}]}


class Provider:
    """A provider that answers at once, fails, or never answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers, self.fault = True, False

    def check(self, model: str) -> None:
        raise AssertionError(model)

    async def prepare(self) -> None:
        raise AssertionError

    def provider_of(self, model: str) -> str:
        return model.partition("/")[0]

    async def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float:
        assert model == "openai/x"
        return (prompt_tokens + completion_tokens) / 1000

    async def complete(self, request: dict[str, Any]) -> Completion:
        assert request == REQUEST
        self.asked += 1
        if self.fault:
            raise Unavailable("overloaded")
        if not self.answers:
            await asyncio.Event().wait()
        return Completion(b"{}", 7, 3, 0.5)


def claims() -> SandboxClaims:
    return SandboxClaims(new_id("sbx"), new_id("tsk"), new_id("agt"), 1, 0, "openai/x")


def later() -> datetime:
    return utc_now() + timedelta(days=1)


def metered(bus: Bus, provider: Provider) -> MeteredModels:
    models = ModelProviders({}, otherwise=provider, names=ModelNames())
    return meter(bus, models, deadline_s=0.05)


def meter(bus: Bus, models: ModelProviders, calls: ModelCallStore | None = None, *, deadline_s: float) -> MeteredModels:
    return MeteredModels(
        bus,
        models,
        calls or ModelCallStore(bus, utc_now),
        FailedCallLog(SandboxLog(bus, Headroom(bus, max_bytes=-1))),
        deadline_s=deadline_s,
        most_timeouts=3,
        most_failures=10,
        most_tokens=65_536,
    )


async def called(bus: Bus, sandbox_id: str) -> list[ModelCalled]:
    subject = f"sandbox.{partition(sandbox_id)}.{sandbox_id}.model"
    return [decode(one.body, ModelCalled) async for one in MessageStore(bus).replay("MODEL_CALLS", subject)]


async def asked(bus: Bus, sandbox_id: str) -> list[ModelAsked]:
    subject = f"sandbox.{partition(sandbox_id)}.{sandbox_id}.asked.*"
    stored = [one.body async for one in MessageStore(bus).replay("MODEL_ASKED", subject)]
    return [decode(body, ModelAsked) for body in stored if body]


@pytest.fixture
async def bus(nats_url: str) -> AsyncGenerator[Bus]:
    async with open_bus(nats_url, "gateway") as bus:
        await ensure_streams(bus)
        yield bus


async def ask(models: MeteredModels, whose: SandboxClaims) -> Completion:
    return await models.complete(whose, REQUEST, new_id("req"), [])


async def test_timed_out_call_is_metered_as_reserved_and_permanently_refused_after_three(bus: Bus) -> None:
    provider, whose = Provider(), claims()
    models = metered(bus, provider)
    provider.answers = False
    for _ in range(2):
        with pytest.raises(TimedOut):
            await ask(models, whose)
    for _ in range(2):
        with pytest.raises(ModelTooSlow, match="MUSTER_MODEL_DEADLINE_S") as refused:
            await ask(models, whose)
        assert refused.value.status == 400
    assert provider.asked == 3
    calls = await called(bus, whose.sbx)
    assert [call.timeouts for call in calls] == [1, 2, 3]
    assert {(call.usage, call.status, call.completion_tokens) for call in calls} == {("reserved", 504, RESERVED_TOKENS)}
    assert min(call.prompt_tokens for call in calls) > 50
    assert min(call.cost_usd for call in calls) > RESERVED_TOKENS / 1000
    assert await asked(bus, whose.sbx) == []


async def test_answer_resets_the_count_of_timeouts_and_a_failure_does_not(bus: Bus) -> None:
    provider, whose = Provider(), claims()

    async def once(*, answers: bool, fault: bool = False) -> None:
        provider.answers, provider.fault = answers, fault
        await ask(metered(bus, provider), whose)  # A separate gateway, because the count is not in memory.

    for _ in range(2):
        with pytest.raises(TimedOut):
            await once(answers=False)
    await once(answers=True)
    with pytest.raises(TimedOut):
        await once(answers=False)
    with pytest.raises(Unavailable):
        await once(answers=True, fault=True)
    with pytest.raises(TimedOut):
        await once(answers=False)
    with pytest.raises(ModelTooSlow):
        await once(answers=False)
    calls = await called(bus, whose.sbx)
    assert [call.timeouts for call in calls] == [1, 2, 0, 1, 1, 2, 3]
    answered, failed = calls[2], calls[4]
    assert (answered.usage, answered.prompt_tokens, answered.completion_tokens, answered.cost_usd) == (
        *("measured", 7, 3, 0.5),
    )
    assert (failed.usage, failed.status, failed.prompt_tokens) == ("measured", 503, 0)


async def test_call_of_a_killed_gateway_is_metered_once_with_what_was_reserved(
    tmp_path: Path, nats_url: str, bus: Bus
) -> None:
    async with without_shim(tmp_path, nats_url) as stack:
        script = {"courses": [{"steps": [{"say": "at last", "delay_s": 600}]}]}
        (stack.home / "scripts" / "hello.json").write_text(json.dumps(script))
        whose, token = await stack.born()
        request = {**REQUEST, "model": "scripted/hello", "max_tokens": 50}
        call = asyncio.create_task(stack.call("POST", "/v1/chat/completions", request, token=token))
        pending = await eventually(lambda: asked(bus, whose.sandbox_id))
        await stack.end(signal.SIGKILL)
        await asyncio.gather(call, return_exceptions=True)
    assert await called(bus, whose.sandbox_id) == []
    await ModelCallStore(bus, utc_now).settle_overdue()  # another gateway may still be waiting for its answer
    assert await called(bus, whose.sandbox_id) == []
    for _ in range(2):
        await ModelCallStore(bus, later).settle_overdue()
    (settled,) = await called(bus, whose.sandbox_id)
    assert (settled.request_id, settled.usage, settled.completion_tokens) == (
        pending[0].call.request_id,
        "reserved",
        50,
    )
    assert settled.prompt_tokens > 50
    assert await asked(bus, whose.sandbox_id) == []


async def test_call_that_was_metered_but_not_emptied_is_not_metered_again(bus: Bus) -> None:
    provider, whose = Provider(), claims()
    await ask(metered(bus, provider), whose)
    (measured,) = await called(bus, whose.sbx)
    await ModelCallStore(bus, utc_now).begin(measured, deadline_s=1.0)  # as if its gateway had been killed earlier
    await ModelCallStore(bus, later).settle_overdue()
    assert await called(bus, whose.sbx) == [measured]
    assert await asked(bus, whose.sbx) == []


async def test_model_is_not_asked_when_the_call_cannot_be_recorded(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "gateway") as bus:
        await ensure_streams(bus)
        provider, whose = Provider(), claims()
        await nats_server.kill()
        with pytest.raises(Unavailable):
            await ask(metered(bus, provider), whose)
        assert provider.asked == 0
