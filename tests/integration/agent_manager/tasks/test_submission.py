"""The manager accepts or refuses a task at its submission."""

from collections.abc import AsyncIterator

import pytest

from muster.agent_manager.service import answering
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.tasks import CancelTask, ListTasks
from muster.common.faults import Conflict, Fault, InvalidMessage, Unavailable
from tests.support.eventually import eventually
from tests.support.managed import Place, open_place, works
from tests.support.servers import Restartable


@pytest.fixture
async def place(nats_server: Restartable, manager_database_url: str) -> AsyncIterator[Place]:
    async with open_place(nats_server.url, manager_database_url) as place:
        yield place


async def test_task_that_can_never_start_is_refused_at_submission(place: Place) -> None:
    repo = Repo(url="gopher://old/x")
    place.gateway.refuse["check"] = InvalidMessage("a repository's URL begins with https", field="$.repo.url")
    async with place.manager():
        with pytest.raises(InvalidMessage, match="begins with https") as refused:
            await place.submit(repo=repo)
        assert (await place.bus.request(ListTasks())).tasks == []
        # The gateway cannot answer now, so the task waits.
        for passing in (Unavailable("later"), Fault("a bug of the gateway's")):
            place.gateway.refuse["check"] = passing
            await place.submit(repo=repo)

    assert refused.value.field == "$.repo.url"


@pytest.mark.parametrize(
    ("config", "field"), [("loud", "$.metadata.config"), ({"prefix": 3}, "$.metadata.config.prefix")]
)
async def test_task_with_a_config_that_its_package_does_not_accept_is_refused(
    place: Place, config: object, field: str
) -> None:
    async with answering(place.bus, place.database, place.settings, place.catalogue):
        with pytest.raises(InvalidMessage) as refused:
            await place.submit(package="echo", metadata={"config": config})
        await place.submit(package="echo", metadata={"config": {"prefix": "> "}})

    assert refused.value.field == field


async def test_task_waits_for_the_tasks_it_depends_on(place: Place) -> None:
    place.gateway.on_create = works
    async with place.manager():
        first = await place.submit()
        second = await place.submit(depends_on=[first.task_id])
        assert second.state == "blocked"
        await eventually(lambda: place.gateway.created)
        place.gateway.on_create = place.gateway.finishes
        await place.gateway.finishes(next(iter(place.gateway.created.values())))
        await place.until_state(second.task_id, "completed")

        place.gateway.refuse["create"] = InvalidMessage("no")
        third = await place.submit()
        fourth = await place.submit(depends_on=[third.task_id])
        failed = await place.until_state(fourth.task_id, "failed")
        assert third.task_id in str(failed.error)
        with pytest.raises(Conflict):
            await place.bus.request(CancelTask(task_id=fourth.task_id))


async def test_a_task_without_a_model_is_refused_unless_its_package_needs_none(place: Place) -> None:
    async with answering(place.bus, place.database, place.settings, place.catalogue):
        with pytest.raises(InvalidMessage, match="openhands needs a model") as refused:
            await place.submit(package="openhands")
        echoed = await place.submit(package="echo")

    assert refused.value.field == "$.model"
    assert echoed.model == "none"
