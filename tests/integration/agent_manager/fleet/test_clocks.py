"""Deadlines of attempts when the clocks of manager, gateway and database differ by an hour."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import pytest

from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.fleet.store.agents import default_id
from muster.agent_manager.service import answering
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.store import attempts, next_task
from muster.common.clock import utc_now
from muster.common.ids import new_id
from tests.support.managed import Place, open_place

HOUR = timedelta(hours=1)


@pytest.fixture
async def place(nats_url: str, manager_database_url: str) -> AsyncIterator[Place]:
    async with open_place(nats_url, manager_database_url) as place:
        yield place


def of_manager(place: Place, off: timedelta) -> AbstractAsyncContextManager[ManagerDatabase]:
    """Return the same database as a manager with a wrong clock uses it."""
    return open_database(place.database.url, now=lambda: utc_now() + off, new_id=new_id)


async def attempted(place: Place) -> AttemptRecord:
    """Return an attempt for which the gateway was not called yet."""
    async with answering(place.bus, place.database, place.settings, place.catalogue):
        await place.submit()
    async with place.database.begin() as tx:
        task = await next_task.next_task(tx, max_running=9, ageing_s=60)
        assert task is not None
        return await next_task.open_attempt(tx, task, default_id("echo"))


async def overdue(database: ManagerDatabase, *, opened_within_s: float = 60.0) -> list[tuple[str, bool]]:
    async with database.begin() as tx:
        found = await attempts.overdue(tx, opened_within_s=opened_within_s)
    return [(attempt.attempt_id, to_open) for attempt, to_open in found]


@pytest.mark.parametrize(("manager", "gateway"), [(HOUR, -HOUR), (-HOUR, HOUR)])
async def test_attempt_keeps_its_time_limit_when_clocks_differ(
    place: Place, manager: timedelta, gateway: timedelta
) -> None:
    attempt = await attempted(place)
    async with of_manager(place, manager) as database:
        async with database.begin() as tx:
            found = await attempts.of_sandbox(tx, attempt.sandbox_id)
            assert found is not None
            await attempts.created(tx, *found)
        to_open = await overdue(database), await overdue(place.database), await overdue(database, opened_within_s=-1.0)
        async with database.begin() as tx:
            await attempts.opened(tx, attempt, utc_now() + gateway, lasts_s=60.0, isolation="plain")
        to_finish = await overdue(database), await overdue(place.database)

    assert to_open == ([], [], [(attempt.attempt_id, True)])
    assert to_finish == ([], [])


@pytest.mark.parametrize(("manager", "gateway"), [(HOUR, -HOUR), (-HOUR, HOUR)])
async def test_expired_attempt_is_overdue_when_clocks_differ(
    place: Place, manager: timedelta, gateway: timedelta
) -> None:
    attempt = await attempted(place)
    async with of_manager(place, manager) as database:
        async with database.begin() as tx:
            await attempts.opened(tx, attempt, utc_now() + gateway, lasts_s=0.0, isolation="plain")
        found = await overdue(database), await overdue(place.database)

    assert found == ([(attempt.attempt_id, False)],) * 2
