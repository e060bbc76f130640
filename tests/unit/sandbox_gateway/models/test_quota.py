"""Model calls of each sandbox are limited in number and rate, without an effect on other sandboxes."""

from contextlib import ExitStack

import pytest

from muster.common.faults import TooMany
from muster.sandbox_gateway.models.routes.quota import ModelQuota


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def call(quota: ModelQuota, sandbox_id: str = "sbx_a") -> None:
    with quota.running_call(sandbox_id):
        pass


def test_parallel_calls_of_one_sandbox_are_bounded_until_one_of_them_ends() -> None:
    quota = ModelQuota(most_parallel=2, per_minute=1000, clock=Seconds())
    with ExitStack() as running:
        first = running.enter_context(ExitStack())
        first.enter_context(quota.running_call("sbx_a"))
        running.enter_context(quota.running_call("sbx_a"))
        with pytest.raises(TooMany):
            call(quota)
        call(quota, "sbx_b")
        first.close()
        call(quota)


def test_calls_per_minute_are_bounded_and_allowed_again_later() -> None:
    seconds = Seconds()
    quota = ModelQuota(most_parallel=1, per_minute=60, clock=seconds)
    for _ in range(60):
        call(quota)
    with pytest.raises(TooMany):
        call(quota)
    call(quota, "sbx_b")
    seconds.now += 1.0
    call(quota)
    with pytest.raises(TooMany):
        call(quota)
    seconds.now += 86_400.0
    for _ in range(60):
        call(quota)
    with pytest.raises(TooMany):
        call(quota)


def test_a_call_that_fails_is_no_longer_counted_as_running() -> None:
    quota = ModelQuota(most_parallel=1, per_minute=60, clock=Seconds())
    with pytest.raises(ZeroDivisionError), quota.running_call("sbx_a"):
        raise ZeroDivisionError
    call(quota)


def test_number_of_remembered_sandboxes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.sandbox_gateway.models.routes.quota.REMEMBERED", 2)
    quota = ModelQuota(most_parallel=1, per_minute=1, clock=Seconds())
    with quota.running_call("sbx_a"):
        call(quota, "sbx_b")
        call(quota, "sbx_c")
        with pytest.raises(TooMany):
            call(quota, "sbx_a")
    for name in ("sbx_d", "sbx_e"):
        call(quota, name)
    call(quota, "sbx_b")  # forgotten, and so allowed again
