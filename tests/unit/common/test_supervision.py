"""A supervised loop is restarted, and fails after too many restarts. Time is virtual."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.common.supervision import GaveUpError, Intensity, supervise
from tests.support.virtual_time import in_virtual_time


@in_virtual_time
async def test_gives_up_after_five_failures_in_a_minute() -> None:
    runs = 0

    async def fails() -> None:
        nonlocal runs
        runs += 1
        raise OSError("no")

    with pytest.raises(GaveUpError, match="failing failed 5 times"):
        await supervise("failing", fails)

    assert runs == 5


@in_virtual_time
async def test_goes_on_for_ever_when_failures_are_rare() -> None:
    failures = 0

    async def fails_hourly() -> None:
        nonlocal failures
        await asyncio.sleep(3600)
        failures += 1
        raise OSError("again")

    async with asyncio.TaskGroup() as tasks:
        supervised = tasks.create_task(supervise("rare", fails_hourly))
        await asyncio.sleep(8 * 3600 - 1)
        supervised.cancel()

    assert failures == 7


@in_virtual_time
async def test_a_loop_that_returns_has_failed() -> None:
    async def returns() -> None:
        return

    with pytest.raises(GaveUpError, match="must run until cancelled"):
        await supervise("returning", returns)


def test_the_first_restart_is_immediate() -> None:
    intensity = Intensity(most=5, within_s=60)
    intensity.too_much(10.0)

    assert intensity.delay_s(10.0) == 0.0


@given(st.lists(st.floats(0.1, 20), min_size=5, max_size=30))
def test_too_much_means_most_failures_within_the_window(gaps: list[float]) -> None:
    intensity, at, moments = Intensity(most=5, within_s=60), 0.0, list[float]()
    for gap in gaps:
        at += gap
        moments.append(at)

        assert intensity.too_much(at) == (len(moments) >= 5 and at - moments[-5] < 60)
        assert 0.0 <= intensity.delay_s(at) <= 30.0
