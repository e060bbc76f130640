"""A failed model call is in the sandbox's log at once, and the limits of the task end its calls."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.contracts.model_calls import ModelFailed
from muster.common.contracts.sandbox_log import Frame, FrameKind, Opened
from muster.common.faults import Fault
from muster.common.ids import new_id
from muster.sandbox_gateway.models.adapters.registry import ModelProviders
from muster.sandbox_gateway.models.domain.answers import Completion
from muster.sandbox_gateway.models.domain.model_names import ModelNames
from muster.sandbox_gateway.models.domain.provider_errors import (
    ModelAnswerCut,
    ModelGivenUp,
    ModelLimitReached,
    ModelServerFailed,
    ModelSilent,
    ModelTimedOut,
)
from muster.sandbox_gateway.models.routes.metering import MeteredModels
from muster.sandbox_gateway.models.store import ModelCallStore
from muster.sandbox_gateway.sandbox_log.domain.frames import control
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.domain.tokens import CallLimits, SandboxClaims
from tests.integration.sandbox_gateway.models.test_meter import called, meter
from tests.support.streams import ensure_streams

ANSWER = Completion(b"{}", 70, 30, 0.5)
CUT = Completion(b"{}", 70, 4_096, 0.5, finish_reason="length")
REQUEST: dict[str, Any] = {"model": "openai/x", "messages": [{"role": "user", "content": "hi"}]}


class Provider:
    """A provider that answers each call with the next of its answers; the last one repeats."""

    def __init__(self, answers: Sequence[Completion | Fault], *, price: float | None = 0.1) -> None:
        self._answers, self._price = list(answers), price
        self.requests = list[dict[str, Any]]()

    def check(self, model: str) -> None:
        raise AssertionError(model)

    async def prepare(self) -> None:
        raise AssertionError

    def provider_of(self, model: str) -> str:
        return model.partition("/")[0]

    async def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        return self._price

    async def complete(self, request: dict[str, Any]) -> Completion:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Fault):
            raise answer
        return answer


@pytest.fixture
async def bus(nats_url: str) -> AsyncGenerator[Bus]:
    async with open_bus(nats_url, "gateway") as bus:
        await ensure_streams(bus)
        yield bus


async def opened(bus: Bus, limits: CallLimits | None = None) -> SandboxClaims:
    whose = SandboxClaims(new_id("sbx"), new_id("tsk"), new_id("agt"), 1, 0, "openai/x", limits or CallLimits())
    frame = control(whose.owner, FrameKind.OPENED, Opened(package="p", model="openai/x", conversation_id="cnv_1"))
    await SandboxLog(bus, Headroom(bus, max_bytes=-1)).append([frame])
    return whose


def metered(bus: Bus, provider: Provider) -> MeteredModels:
    return meter(bus, ModelProviders({}, otherwise=provider, names=ModelNames()), deadline_s=5.0)


async def ask(models: MeteredModels, whose: SandboxClaims) -> Completion:
    return await models.complete(whose, REQUEST, new_id("req"), [])


async def failures(bus: Bus, whose: SandboxClaims) -> list[ModelFailed]:
    frames = [decode(body, Frame) for body in await SandboxLog(bus, Headroom(bus, max_bytes=-1)).frames(whose.sbx)]
    return [decode(bytes(frame.body), ModelFailed) for frame in frames if frame.kind is FrameKind.MODEL_FAILED]


async def test_failed_call_is_in_the_log_when_the_worker_gets_the_refusal_with_the_time_of_the_next_try(
    bus: Bus,
) -> None:
    whose, provider = await opened(bus), Provider([ModelServerFailed("CUDA out of memory", provider_status=500)])
    for tries in (1, 2):
        before = utc_now()
        with pytest.raises(ModelServerFailed) as refused:
            await ask(metered(bus, provider), whose)  # A separate gateway, because the count is not in memory.
        failed = (await failures(bus, whose))[-1]
        assert (failed.kind, failed.error, failed.status) == ("server_error", "CUDA out of memory", 500)
        assert (failed.model, failed.tries, failed.step) == ("openai/x", tries, tries)
        assert failed.retry_at is not None
        assert failed.retry_at > before
        assert refused.value.retry_after_s == tries
    records = await called(bus, whose.sbx)
    assert [record.failed for record in records] == await failures(bus, whose)


async def test_answer_ends_the_row_of_failures(bus: Bus) -> None:
    whose = await opened(bus)
    models = metered(bus, Provider([ModelServerFailed("x"), ANSWER, ModelServerFailed("y")]))
    for expected in (ModelServerFailed, None, ModelServerFailed):
        if expected is None:
            await ask(models, whose)
            continue
        with pytest.raises(expected):
            await ask(models, whose)
    assert [failed.tries for failed in await failures(bus, whose)] == [1, 1]


async def test_model_that_fails_ten_times_in_a_row_is_given_up_with_its_own_last_sentence(bus: Bus) -> None:
    whose, provider = await opened(bus), Provider([ModelServerFailed("CUDA out of memory", provider_status=500)])
    models = metered(bus, provider)
    for _ in range(9):
        with pytest.raises(ModelServerFailed):
            await ask(models, whose)
    for _ in range(3):
        with pytest.raises(ModelGivenUp, match=r"10 times in a row; the last time \(500\): CUDA out of memory"):
            await ask(models, whose)
    assert len(provider.requests) == 10
    told = await failures(bus, whose)
    assert [failed.retry_at is None for failed in told] == [False] * 9 + [True] * 2, (
        "one refusal without a call is told"
    )


async def test_calls_end_at_the_limit_of_steps_whichever_gateway_makes_them(bus: Bus) -> None:
    whose = await opened(bus, CallLimits(max_steps=5, steps=2))
    for _ in range(3):
        await ask(metered(bus, Provider([ANSWER])), whose)
    provider = Provider([ANSWER])
    models = metered(bus, provider)
    for _ in range(2):
        with pytest.raises(ModelLimitReached, match="limit of 5 model calls") as refused:
            await ask(models, whose)
        assert refused.value.status == 403
    assert not provider.requests
    (told,) = await failures(bus, whose)
    assert (told.kind, told.limit) == ("limit", "steps")


@pytest.mark.parametrize(
    ("limits", "limit"), [(CallLimits(max_tokens=300, tokens=100), "tokens"), (CallLimits(max_cost_usd=1.0), "cost")]
)
async def test_calls_end_at_the_limit_of_tokens_and_of_costs(bus: Bus, limits: CallLimits, limit: str) -> None:
    whose = await opened(bus, limits)
    models = metered(bus, Provider([ANSWER]))
    await ask(models, whose)
    await ask(models, whose)
    with pytest.raises(ModelLimitReached) as refused:
        await ask(models, whose)
    assert refused.value.limit == limit


async def test_parallel_calls_cannot_pass_the_limit_of_steps(bus: Bus) -> None:
    whose = await opened(bus, CallLimits(max_steps=3))
    models = metered(bus, Provider([ANSWER]))
    done = await asyncio.gather(*(ask(models, whose) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(one, Completion) for one in done) == 3
    assert sum(isinstance(one, ModelLimitReached) for one in done) == 5


async def test_limit_of_costs_needs_a_known_price(bus: Bus) -> None:
    whose = await opened(bus, CallLimits(max_cost_usd=1.0))
    with pytest.raises(ModelLimitReached, match="price of its model is unknown"):
        await ask(metered(bus, Provider([ANSWER], price=None)), whose)


async def test_cut_answer_is_requested_again_and_both_calls_are_metered(bus: Bus) -> None:
    whose, provider = await opened(bus), Provider([CUT, ANSWER])
    assert await ask(metered(bus, provider), whose) == ANSWER
    assert [request.get("max_tokens") for request in provider.requests] == [None, 16_384]
    assert [record.completion_tokens for record in await called(bus, whose.sbx)] == [4_096, 30]
    (told,) = await failures(bus, whose)
    assert told.kind == "truncated"


async def test_answer_that_is_cut_at_the_limit_of_the_request_fails_with_its_cure(bus: Bus) -> None:
    whose, provider = await opened(bus), Provider([CUT])
    request = REQUEST | {"max_tokens": 4_096}
    with pytest.raises(ModelAnswerCut, match="--max-output-tokens") as failed:
        await metered(bus, provider).complete(whose, request, new_id("req"), [])
    assert (failed.value.status, len(provider.requests)) == (400, 1)


async def test_empty_answer_fails_and_may_be_repeated(bus: Bus) -> None:
    whose, provider = await opened(bus), Provider([msgspec.structs.replace(ANSWER, empty=True), ANSWER])
    models = metered(bus, provider)
    with pytest.raises(ModelSilent):
        await ask(models, whose)
    assert await ask(models, whose) == ANSWER
    (told,) = await failures(bus, whose)
    assert (told.kind, told.retry_at is None) == ("empty", False)


async def test_limit_of_steps_holds_after_a_gateway_was_killed_during_a_call(bus: Bus) -> None:
    whose = await opened(bus, CallLimits(max_steps=5))
    silent = Silent()
    killed = asyncio.create_task(ask(metered(bus, silent), whose))
    await silent.called.wait()
    killed.cancel()
    for _ in range(4):
        await ask(metered(bus, Provider([ANSWER])), whose)
    await ModelCallStore(
        bus, lambda: utc_now() + timedelta(days=1)
    ).settle_overdue()  # The latest record is an old one.
    await ask(metered(bus, Provider([ANSWER])), whose)
    with pytest.raises(ModelLimitReached):
        await ask(metered(bus, Provider([ANSWER])), whose)


async def test_one_deadline_holds_for_all_repetitions_of_a_cut_answer(bus: Bus) -> None:
    whose, provider = await opened(bus), Cutting(0.3)
    models = meter(bus, ModelProviders({}, otherwise=provider, names=ModelNames()), deadline_s=0.4)
    with pytest.raises((ModelAnswerCut, ModelTimedOut)):
        await ask(models, whose)
    assert len(provider.requests) == 2


class Silent(Provider):
    """A provider that never answers. `called` is set when it has a request."""

    def __init__(self) -> None:
        super().__init__([ANSWER])
        self.called = asyncio.Event()

    async def complete(self, request: dict[str, Any]) -> Completion:
        self.called.set()
        await asyncio.Event().wait()
        raise AssertionError(request)


class Cutting(Provider):
    """A provider that takes `seconds` for each answer, and whose answers are always cut."""

    def __init__(self, seconds: float) -> None:
        super().__init__([CUT])
        self._seconds = seconds

    async def complete(self, request: dict[str, Any]) -> Completion:
        answer = await super().complete(request)
        await asyncio.sleep(self._seconds)
        return msgspec.structs.replace(answer, completion_tokens=request.get("max_tokens", 4_096))
