"""The pure rules of model calls: pauses, limits, cut answers, and the records of calls that failed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.common.contracts.attempts import UsedSoFar
from muster.common.contracts.model_calls import ModelCalled
from muster.common.faults import Fault
from muster.sandbox_gateway.models.domain.answers import Completion, larger_limit, trouble_with
from muster.sandbox_gateway.models.domain.limits import plus, reached, settled
from muster.sandbox_gateway.models.domain.provider_errors import ModelKeyRefused, ModelRateLimited, ModelTimedOut
from muster.sandbox_gateway.models.domain.records import failure
from muster.sandbox_gateway.models.domain.records import settled as settled_call
from muster.sandbox_gateway.models.domain.retries import LONGEST_PAUSE_S, MOST_ASKED_S, pause_s
from muster.sandbox_gateway.sandboxes.domain.tokens import CallLimits

AT = datetime(2026, 11, 30, tzinfo=UTC)
CUT = Completion(b"", 10, 4_096, 0.0, finish_reason="length")


def call(**fields: Any) -> ModelCalled:
    base: dict[str, Any] = {
        "partition": "00",
        "sandbox_id": "sbx_1",
        "task_id": "tsk_1",
        "epoch": 1,
        "request_id": "req_1",
        "at": AT,
        "model": "local",
        "provider": "hosted_vllm",
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "cost_usd": 2.0,
        "seconds": 0.0,
        "status": 504,
        "usage": "reserved",
    }
    return ModelCalled(**base | fields)


@given(st.integers(1, 10_000), st.floats(0, 1e9))
def test_pause_grows_to_its_limit_and_obeys_a_longer_one_of_the_provider(tries: int, asked_s: float) -> None:
    assert pause_s(1) == 1.0
    assert pause_s(tries) <= pause_s(tries + 1) <= LONGEST_PAUSE_S
    assert pause_s(tries, asked_s) == max(pause_s(tries), min(asked_s, MOST_ASKED_S))


@pytest.mark.parametrize(
    ("limits", "used", "limit"),
    [
        (CallLimits(max_steps=3), UsedSoFar(steps=2), None),
        (CallLimits(max_steps=3), UsedSoFar(steps=3), "steps"),
        (CallLimits(max_steps=3, steps=2), UsedSoFar(steps=1), "steps"),
        (CallLimits(max_tokens=100), UsedSoFar(tokens=99), None),
        (CallLimits(max_tokens=100, tokens=60), UsedSoFar(tokens=40), "tokens"),
        (CallLimits(max_cost_usd=1.0), UsedSoFar(cost_usd=0.99), None),
        (CallLimits(max_cost_usd=1.0, cost_usd=0.5), UsedSoFar(cost_usd=0.5), "cost"),
        (CallLimits(), UsedSoFar(steps=10**9, tokens=10**12, cost_usd=1e9), None),
    ],
)
def test_call_beyond_a_limit_of_the_task_is_refused_with_the_limit(
    limits: CallLimits, used: UsedSoFar, limit: str | None
) -> None:
    refusal = reached(limits, used, priced=True)
    assert (refusal and refusal.limit) == limit
    assert refusal is None or "muster task submit --max-" in str(refusal)


def test_limit_of_costs_refuses_a_model_without_a_known_price() -> None:
    refusal = reached(CallLimits(max_cost_usd=1.0), UsedSoFar(), priced=False)
    assert refusal is not None
    assert (refusal.limit, "price of its model is unknown" in str(refusal)) == ("cost", True)
    assert reached(CallLimits(max_steps=1), UsedSoFar(), priced=False) is None


def test_use_counts_the_reserved_tokens_until_the_call_has_ended() -> None:
    reserved = call()
    running = plus(UsedSoFar(), reserved)
    ended = settled(running, reserved, call(prompt_tokens=20, completion_tokens=5, cost_usd=0.5))
    assert (running.steps, running.tokens, running.cost_usd) == (1, 150, 2.0)
    assert (ended.steps, ended.tokens, ended.cost_usd) == (1, 25, 0.5)


def test_cut_answer_is_requested_again_with_a_higher_limit_unless_the_request_has_one() -> None:
    def limit(tokens: int, raised: int | None, most: int = 65_536, **request: int) -> int | None:
        return larger_limit(request, msgspec.structs.replace(CUT, completion_tokens=tokens), raised=raised, most=most)

    assert limit(4_096, None) == 16_384
    assert limit(16_384, 16_384, 20_000) == 20_000
    assert limit(20_000, 20_000, 20_000) is None
    assert limit(9_500, 20_000, 20_000) is None, "a server with a limit of its own is not asked for ever"
    assert limit(100, None, max_tokens=100) is None
    assert limit(100, None, max_completion_tokens=100) is None
    assert larger_limit({}, Completion(b"", 1, 1, 0.0), raised=None, most=65_536) is None


def test_answer_without_text_and_tool_call_is_a_failure() -> None:
    trouble = trouble_with(Completion(b"", 1, 0, 0.0, empty=True))
    assert trouble is not None
    assert (trouble.kind, trouble.status) == ("empty", 502)
    assert trouble_with(Completion(b"", 1, 1, 0.0, finish_reason="tool_calls")) is None


def test_failure_names_the_next_call_only_if_a_further_call_may_succeed() -> None:
    limited = ModelRateLimited("slow down", provider_status=429, asked_pause_s=9)
    failed = failure(call(), limited, tries=2, now=AT)
    assert (failed.kind, failed.status, failed.tries, failed.error) == ("rate_limited", 429, 2, "slow down")
    assert failed.retry_at == AT + timedelta(seconds=9)
    assert limited.retry_after_s == 9
    final = failure(call(), ModelKeyRefused("no"), tries=1, now=AT)
    assert (final.kind, final.retry_at) == ("key_refused", None)
    assert failed.sentence == "the model local failed 2 times in a row (rate limited 429): slow down"


def test_call_without_an_answer_costs_what_was_reserved_only_after_a_timeout() -> None:
    timed_out = settled_call(call(timeouts=1), None, ModelTimedOut())
    assert (timed_out.usage, timed_out.timeouts, timed_out.cost_usd) == ("reserved", 2, 2.0)
    refused = settled_call(call(timeouts=1), None, Fault("x"))
    assert (refused.usage, refused.timeouts, refused.cost_usd, refused.prompt_tokens) == ("measured", 1, 0.0, 0)
    unpriced = settled_call(call(), Completion(b"", 3, 4, None), None)
    assert (unpriced.priced, unpriced.cost_usd, unpriced.status) == (False, 0.0, 200)
