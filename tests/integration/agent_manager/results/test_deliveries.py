"""A task whose result was accepted is completed when the result is delivered, with real NATS and PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.task_spec import Deliver, Repo
from muster.common.contracts.tasks import CancelTask, TaskView
from muster.common.faults import Forbidden, InvalidMessage, Unavailable
from tests.support.eventually import eventually
from tests.support.managed import Place, open_place
from tests.support.servers import Restartable

_BASE = "b" * 40


@pytest.fixture
async def place(nats_server: Restartable, manager_database_url: str) -> AsyncIterator[Place]:
    async with open_place(nats_server.url, manager_database_url) as place:
        place.gateway.on_create = _work(place)
        yield place


def _work(place: Place, finished: Finished | None = None):
    said = finished or Finished(outcome="success", summary="did it", diff="+1", base=_BASE)

    async def works(create: CreateSandbox) -> None:
        await place.gateway.emits(create)
        await place.gateway.reports(create, said)

    return works


async def submitted(place: Place, **fields: object) -> TaskView:
    return await place.submit(repo=Repo(url="https://git.invalid/a.git"), deliver=Deliver(pull_request=True), **fields)


async def test_task_is_completed_when_its_result_is_delivered(place: Place) -> None:
    async with place.manager():
        task = await submitted(place, objective="Mend it\nsoon", test_command="make test")
        done = await place.until_state(task.task_id, "completed")
        told = await eventually(lambda: place.told(task.task_id), lambda told: told[-1].state == "completed")
    assert done.delivery is not None
    assert (done.delivery.state, done.delivery.commit, done.delivery.url) == (
        "delivered",
        "c" * 40,
        "https://git.invalid/pull/1",
    )
    (asked,) = place.gateway.deliveries
    assert (asked.base, asked.diff, asked.title, asked.branch) == (_BASE, "+1", "Mend it", f"muster/{task.task_id}")
    assert "ran make test" in asked.validation
    assert [event.kind for event in told][-3:] == ["validating", "validating", "completed"]


@pytest.mark.stress
async def test_sandbox_is_deleted_and_result_is_kept_while_its_host_does_not_answer(place: Place) -> None:
    place.gateway.refuse["deliver"] = Unavailable("git.invalid does not answer")
    async with place.manager():
        task = await submitted(place)
        await eventually(lambda: place.gateway.deleted)
        await eventually(lambda: len(place.gateway.deliveries) > 1)
        waiting = await place.get(task.task_id)
        assert (waiting.state, waiting.delivery and waiting.delivery.state) == ("validating", "pending")
        assert waiting.diff == "+1"
    del place.gateway.refuse["deliver"]  # Another manager continues with the same commit.
    async with place.manager():
        await place.until_state(task.task_id, "completed")
    assert len({(asked.accepted_at, asked.diff, asked.branch) for asked in place.gateway.deliveries}) == 1


async def test_refused_delivery_fails_the_task_with_its_sentence_and_keeps_the_diff(place: Place) -> None:
    place.gateway.refuse["deliver"] = Forbidden("git.invalid refuses the push")
    async with place.manager():
        task = await submitted(place)
        failed = await place.until_state(task.task_id, "failed")
    assert failed.error == "the result was accepted, but not delivered: git.invalid refuses the push"
    assert failed.delivery is not None
    assert (failed.delivery.state, failed.diff, len(failed.attempts)) == ("failed", "+1", 1)


@pytest.mark.stress
async def test_task_can_be_cancelled_while_its_result_is_not_delivered(place: Place) -> None:
    place.gateway.refuse["deliver"] = Unavailable("git.invalid does not answer")
    async with place.manager():
        task = await submitted(place)
        await eventually(lambda: place.gateway.deliveries)
        assert (await place.bus.request(CancelTask(task_id=task.task_id))).state == "cancelled"


@pytest.mark.stress
async def test_result_without_a_change_is_not_delivered(place: Place) -> None:
    place.gateway.on_create = _work(place, Finished(outcome="success", summary="42", base=_BASE))
    async with place.manager():
        task = await submitted(place, expect="answer")
        done = await place.until_state(task.task_id, "completed")
    assert (done.delivery, place.gateway.deliveries) == (None, [])


async def test_delivery_without_a_repository_is_refused(place: Place) -> None:
    async with place.manager():
        with pytest.raises(InvalidMessage) as refused:
            await place.submit(deliver=Deliver())
        assert refused.value.field == "$.repo"
        with pytest.raises(InvalidMessage) as refused:
            await place.submit(repo=Repo(url="https://g/a"), deliver=Deliver(push=False, pull_request=True))
        assert refused.value.field == "$.deliver.push"
