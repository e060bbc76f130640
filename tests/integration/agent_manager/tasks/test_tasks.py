"""A task from submission to its end in the manager, with real NATS and PostgreSQL and a double of the gateway."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from muster.agent_manager.service import answering
from muster.common.contract import fields_of
from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.task_spec import Deliver, Network, Repo, TaskSpec
from muster.common.contracts.tasks import CancelTask, ListTasks, TaskView
from muster.common.faults import InvalidMessage
from tests.support.eventually import eventually
from tests.support.managed import Place, open_place
from tests.support.servers import Restartable


@pytest.fixture
async def place(nats_server: Restartable, manager_database_url: str) -> AsyncIterator[Place]:
    async with open_place(nats_server.url, manager_database_url) as place:
        yield place


async def test_task_runs_is_tested_completes_and_its_sandbox_is_deleted(place: Place) -> None:
    async with place.manager():
        task = await place.submit(test_command="make test")
        done = await place.until_state(task.task_id, "completed")
        await place.until(task.task_id, lambda view: view.attempts[0].tokens)
        await eventually(lambda: place.gateway.deleted)
        told = await eventually(lambda: place.told(task.task_id), lambda told: told[-1].state == "completed")

    assert (done.summary, done.diff, done.error) == ("did it", "+1", None)
    assert "ran make test" in str(done.validation)
    (attempt,) = (await _view(place, task.task_id)).attempts
    assert (attempt.state, attempt.tokens, attempt.model_calls, attempt.cost_usd) == ("finished", 10, 1, 0.5)
    assert place.gateway.verbs(attempt.sandbox_id) == ["create", "exec", "delete"]
    assert [event.kind for event in told] == ["queued", "assigned", "running", "validating", "completed"]
    assert [event.version for event in told] == [1, 2, 3, 4, 5]


async def test_every_field_of_a_task_is_in_its_view_its_list_and_its_sandbox(place: Place) -> None:
    first = await _submitted(place, objective="first")
    spec = TaskSpec(
        objective="do it",
        repo=Repo(url="https://example.com/a.git", ref="main"),
        deliver=Deliver(branch="work", push=False, title="Title"),
        test_command="make test",
        paths=["src/**"],
        timeout_s=60,
        priority="HIGH",
        labels={"team": "core"},
        depends_on=[first.task_id],
        ticket_id="T-1",
        phase_id="P 2",
        metadata={"k": [1, "x"]},
        task_type="unit_test",
        target_file="src/auth.py",
        complexity="moderate",
        quality_threshold=0.7,
        max_latency_s=30,
        max_cost_usd=1.5,
        max_steps=7,
        max_tokens=70_000,
        max_output_tokens=700,
        temperature=0.7,
        effort="low",
        expect="answer",
        requires=["python"],
        env={"LANG": "C.UTF-8"},
        network=Network(mode="none", hosts=["pypi.org"]),
        provider="local",
    )
    assert all(getattr(spec, field.name) != field.default for field in msgspec.structs.fields(TaskSpec)), "set them all"
    async with place.manager():
        task = await place.submit(**fields_of(TaskSpec, spec))
        listed = (await place.bus.request(ListTasks(labels={"team": "core"}))).tasks
        done = await place.until_state(task.task_id, "completed")
    created = place.gateway.created[done.attempts[0].sandbox_id]

    for carries in (task, *listed, done, created):
        assert fields_of(TaskSpec, carries) == fields_of(TaskSpec, spec), type(carries).__name__
    assert len(listed) == 1


async def _submitted(place: Place, **fields: object) -> TaskView:
    async with answering(place.bus, place.database, place.settings, place.catalogue):
        return await place.submit(**fields)


async def _view(place: Place, task_id: str) -> TaskView:
    async with answering(place.bus, place.database, place.settings, place.catalogue):
        return await place.get(task_id)


async def test_failed_test_is_retried_and_then_fails_the_task(place: Place) -> None:
    place.gateway.exit_code = 1
    async with place.manager():
        task = await place.submit(test_command="make test")
        failed = await place.until_state(task.task_id, "failed")
        await eventually(lambda: len(place.gateway.deleted) == 3)

    assert [attempt.epoch for attempt in failed.attempts] == [1, 2, 3]
    assert failed.error == "the test command failed with exit code 1"
    assert "ran make test" in str(failed.validation)


async def test_nul_characters_of_a_worker_and_of_a_test_block_nothing(place: Place) -> None:
    async def finishes_oddly(created: CreateSandbox) -> None:
        await place.gateway.emits(created)
        await place.gateway.reports(created, Finished(outcome="success", summary="did\0 it", diff="\0"))

    place.gateway.on_create = finishes_oddly
    place.gateway.prints = "a\0b "
    async with place.manager():
        task = await place.submit(test_command="make test")
        done = await place.until_state(task.task_id, "completed")

    assert done.summary == "did\N{REPLACEMENT CHARACTER} it"
    assert "a\N{REPLACEMENT CHARACTER}b make test" in str(done.validation)


async def test_refusal_of_the_gateway_fails_the_task_with_its_text(place: Place) -> None:
    place.gateway.refuse["create"] = InvalidMessage("file:// is not allowed here", field="$.repo.url")
    async with place.manager():
        task = await place.submit()
        failed = await place.until_state(task.task_id, "failed")

    assert failed.error == "file:// is not allowed here"
    assert [attempt.state for attempt in failed.attempts] == ["lost"]


async def test_cancelling_ends_the_live_epoch_and_opens_no_other(place: Place) -> None:
    place.gateway.on_create = place.gateway.emits
    async with place.manager():
        task = await place.submit()
        await place.until_state(task.task_id, "running")
        cancelled = await place.bus.request(CancelTask(task_id=task.task_id))
        again = await place.bus.request(CancelTask(task_id=task.task_id))
        await eventually(lambda: place.gateway.deleted)
        view = await place.get(task.task_id)

    assert (cancelled.state, again.version, view.state) == ("cancelled", cancelled.version, "cancelled")
    (attempt,) = view.attempts
    assert attempt.state == "fenced"
    assert place.gateway.verbs(attempt.sandbox_id) == ["create", "fence", "evidence", "stop", "delete"]


async def test_task_that_exceeds_its_time_limit_fails(place: Place) -> None:
    place.settings = place.settings.model_copy(update={"timeout_grace_s": 0.0})
    place.gateway.on_create = place.gateway.emits
    async with place.manager():
        task = await place.submit(timeout_s=1.0)
        failed = await place.until_state(task.task_id, "failed")

    assert (
        failed.error
        == "the attempt took longer than the limit of 1 s (`muster task submit --timeout` sets a higher one)"
    )
    assert (failed.limit, failed.attempts[0].limit) == ("time", "time")
    assert [attempt.state for attempt in failed.attempts] == ["fenced"]
