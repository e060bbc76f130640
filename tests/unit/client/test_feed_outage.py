"""A feed that is cut is reported once, and waited for from its cut on."""

import asyncio

import pytest

from muster.client.errors import ApiCallError, ApiStatusError, ApiUnreachableError
from muster.client.feed_outage import LONGEST_S, FeedOutage
from tests.support.virtual_time import in_virtual_time

AWAY = ApiUnreachableError("cannot reach it")


def new_outage(reported: list[ApiCallError] | None = None) -> FeedOutage:
    return FeedOutage(asyncio.get_running_loop().time, None if reported is None else reported.append)


@in_virtual_time
async def test_an_outage_after_a_long_quiet_is_waited_for_and_told_once() -> None:
    reported: list[ApiCallError] = []
    outage = new_outage(reported)
    await asyncio.sleep(10 * LONGEST_S)
    for _ in range(2):
        for _ in range(20):
            outage.record_failure(AWAY)
            await asyncio.sleep(0.5)
        outage.record_event(new=True)
    assert reported == [AWAY, AWAY]

    outage.record_failure(AWAY)
    await asyncio.sleep(LONGEST_S + 1)
    with pytest.raises(ApiCallError, match="cannot reach it"):
        outage.record_failure(AWAY)


@in_virtual_time
async def test_what_does_not_pass_is_not_waited_for() -> None:
    with pytest.raises(ApiStatusError, match="404"):
        new_outage().record_failure(ApiStatusError(404))


@in_virtual_time
async def test_connections_that_bring_nothing_do_not_end_an_outage_but_one_that_stood_does() -> None:
    outage = new_outage()
    with pytest.raises(ApiCallError, match="cannot reach it"):
        while True:
            outage.record_event(new=False)
            outage.record_failure(AWAY)
            await asyncio.sleep(0.5)

    outage = new_outage()
    for _ in range(10):
        outage.record_event(new=False)
        await asyncio.sleep(LONGEST_S)
        outage.record_failure(AWAY)
