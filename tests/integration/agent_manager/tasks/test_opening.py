"""An attempt whose log is not open is replaced, unless a gateway says that it makes the sandbox."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.support.eventually import eventually
from tests.support.managed import Place, open_place


@pytest.fixture
async def place(nats_url: str, manager_database_url: str) -> AsyncIterator[Place]:
    async with open_place(nats_url, manager_database_url) as place:
        impatient = place.settings.model_copy(update={"opened_within_s": 0.2})
        place.gateway.opens = False
        yield replace(place, settings=impatient)


async def test_a_sandbox_that_a_gateway_is_making_is_waited_for(place: Place) -> None:
    place.gateway.prepares = True
    async with place.manager():
        task = await place.submit()
        await eventually(lambda: place.gateway.created)
        (created,) = place.gateway.created.values()
        await eventually(lambda: place.gateway.verbs(created.sandbox_id).count("get") >= 3)
        place.gateway.opens = True
        await place.gateway.open(created)
        await place.gateway.on_create(created)
        done = await place.until_state(task.task_id, "completed")
    assert len(done.attempts) == 1


async def test_a_sandbox_that_nobody_makes_is_replaced(place: Place) -> None:
    async with place.manager():
        task = await place.submit()
        await eventually(lambda: len(place.gateway.created) >= 2)
        place.gateway.opens = True
        done = await place.until_state(task.task_id, "completed")
    assert [attempt.state for attempt in done.attempts][:1] == ["lost"]
