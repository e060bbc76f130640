"""The accepted result of a task that has ended is delivered afterwards, with real NATS and PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.tasks import DeliverTask, TaskView
from muster.common.faults import Conflict, Forbidden, InvalidMessage, NotFound, Unavailable
from tests.support.eventually import eventually
from tests.support.managed import Place, open_place
from tests.support.servers import Restartable

_RESULT = Finished(outcome="success", summary="did it", diff="+1", base="b" * 40)


@pytest.fixture
async def place(nats_server: Restartable, manager_database_url: str) -> AsyncIterator[Place]:
    async with open_place(nats_server.url, manager_database_url) as place:

        async def works(create: CreateSandbox) -> None:
            await place.gateway.emits(create)
            await place.gateway.reports(create, _RESULT)

        place.gateway.on_create = works
        yield place


async def completed(place: Place, **fields: object) -> TaskView:
    task = await place.submit(repo=Repo(url="https://git.invalid/a.git"), **fields)
    return await place.until_state(task.task_id, "completed")


async def outcome(place: Place, task: TaskView, **options: object) -> TaskView:
    """Deliver the result, and return the task when the delivery has an outcome."""
    command = DeliverTask(task_id=task.task_id, **options)  # type: ignore[arg-type]
    asked = await place.bus.request(command)
    assert asked.delivery is not None
    return await place.until(task.task_id, lambda view: view.delivery and view.delivery.state != "pending")


async def test_result_of_a_completed_task_is_delivered_once_however_often_it_is_asked_for(place: Place) -> None:
    async with place.manager():
        task = await completed(place, objective="Mend it")
        assert (task.delivery, place.gateway.deliveries) == (None, [])
        done = await outcome(place, task, pull_request=True, title="Mended")
        assert (done.state, done.delivery and done.delivery.state) == ("completed", "delivered")
        again = await place.bus.request(DeliverTask(task_id=task.task_id, pull_request=True))
        assert again == done
        with pytest.raises(Conflict, match=f"belongs to the branch muster/{task.task_id}"):
            await place.bus.request(DeliverTask(task_id=task.task_id, branch="another"))
        told = await eventually(lambda: place.told(task.task_id), lambda told: told[-1].version == done.version)
    (asked,) = place.gateway.deliveries
    assert (asked.branch, asked.title, asked.diff) == (f"muster/{task.task_id}", "Mended", "+1")
    assert [event.state for event in told][-3:] == ["completed"] * 3
    assert len({event.version for event in told}) == len(told)


@pytest.mark.stress
async def test_pull_request_can_follow_a_pushed_branch(place: Place) -> None:
    async with place.manager():
        task = await completed(place)
        first = await outcome(place, task)
        await outcome(place, task, pull_request=True)
        assert (await place.get(task.task_id)).delivery != first.delivery
    pushed, requested = place.gateway.deliveries
    assert (pushed.deliver.pull_request, requested.deliver.pull_request) == (False, True)
    assert (pushed.branch, pushed.accepted_at, pushed.title) == (
        requested.branch,
        requested.accepted_at,
        requested.title,
    )


@pytest.mark.stress
async def test_manager_that_dies_continues_the_delivery_with_the_same_commit(place: Place) -> None:
    place.gateway.refuse["deliver"] = Unavailable("git.invalid does not answer")
    async with place.manager():
        task = await completed(place)
        await place.bus.request(DeliverTask(task_id=task.task_id))
        await eventually(lambda: len(place.gateway.deliveries) > 1)
    del place.gateway.refuse["deliver"]
    async with place.manager():
        await place.until(task.task_id, lambda view: view.delivery and view.delivery.state == "delivered")
    assert len({(asked.accepted_at, asked.branch, asked.title) for asked in place.gateway.deliveries}) == 1


@pytest.mark.stress
async def test_failed_delivery_is_tried_again_and_another_branch_only_if_the_branch_was_refused(place: Place) -> None:
    async with place.manager():
        task = await completed(place)
        place.gateway.refuse["deliver"] = Forbidden("the token may open no pull request")
        failed = await outcome(place, task)
        assert (failed.state, failed.delivery and failed.delivery.error) == (
            "completed",
            "the token may open no pull request",
        )
        with pytest.raises(Conflict, match="leave the branch out"):
            await place.bus.request(DeliverTask(task_id=task.task_id, branch="another"))
        place.gateway.refuse["deliver"] = InvalidMessage("other commits; name another", field="$.deliver.branch")
        await place.bus.request(DeliverTask(task_id=task.task_id))
        await place.until(task.task_id, lambda view: view.delivery and view.delivery.unpushed)
        del place.gateway.refuse["deliver"]
        done = await outcome(place, task, branch="another")
    assert done.delivery is not None
    assert (done.delivery.state, done.delivery.branch, done.delivery.error) == ("delivered", "another", None)


@pytest.mark.stress
async def test_only_an_accepted_change_of_a_repository_is_delivered(place: Place) -> None:
    async with place.manager():
        with pytest.raises(NotFound):
            await place.bus.request(DeliverTask(task_id="tsk_nowhere"))
        task = await completed(place)
        with pytest.raises(InvalidMessage) as refused:
            await place.bus.request(DeliverTask(task_id=task.task_id, push=False))
        assert refused.value.field == "$.push"
        place.gateway.refuse["check"] = InvalidMessage("git.toml has no credential", field="$.deliver")
        with pytest.raises(InvalidMessage, match="no credential"):
            await place.bus.request(DeliverTask(task_id=task.task_id))
        assert (await place.get(task.task_id)).delivery is None
