"""Attempts end and are replaced, with a crash of the manager at any step."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from muster.common.contract import decode
from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.tasks import (
    ReplaceAttempt,
    ReportExit,
    TaskView,
)
from muster.common.faults import Fault
from tests.support.eventually import eventually
from tests.support.managed import Place, open_place, works
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable


@pytest.fixture
async def place(nats_server: Restartable, manager_database_url: str) -> AsyncIterator[Place]:
    async with open_place(nats_server.url, manager_database_url) as place:
        yield place


async def test_an_exit_without_a_report_is_replaced_at_once(place: Place) -> None:
    place.gateway.on_create = place.gateway.emits
    async with place.manager():
        task = await place.submit()
        first = (await place.until_state(task.task_id, "running")).attempts[0]
        place.gateway.on_create = place.gateway.finishes
        exited = ReportExit(
            task_id=task.task_id, sandbox_id=first.sandbox_id, epoch=1, exit_code=137, reason="worker exited with 137"
        )
        answer = await place.bus.request(exited)
        again = await place.bus.request(exited)
        done = await place.until_state(task.task_id, "completed")

    assert (answer.result, again.result) == ("replacing", "moot")
    assert [(one.state, one.exit_code) for one in done.attempts] == [("lost", 137), ("finished", None)]
    assert done.error is None
    assert place.gateway.verbs(first.sandbox_id)[:4] == ["create", "fence", "evidence", "stop"]


async def test_attempt_that_ended_with_its_sandbox_does_not_count_as_a_try(place: Place) -> None:
    place.gateway.on_create = place.gateway.emits
    shutdowns = place.settings.max_attempts + 1
    async with place.manager():
        task = await place.submit()
        for epoch in range(1, shutdowns + 1):
            live = await place.until(task.task_id, partial(_runs, epoch))
            if epoch == shutdowns:
                place.gateway.on_create = place.gateway.finishes
            exited = ReportExit(
                task_id=task.task_id,
                sandbox_id=live.attempts[-1].sandbox_id,
                epoch=epoch,
                exit_code=143,
                reason="interrupted",
                interrupted=True,
            )
            assert (await place.bus.request(exited)).result == "replacing"
        done = await place.until_state(task.task_id, "completed")

    assert [one.state for one in done.attempts] == ["lost"] * shutdowns + ["finished"]


def _runs(epoch: int, view: TaskView) -> bool:
    return view.state == "running" and view.attempts[-1].epoch == epoch


async def test_exit_code_that_every_attempt_would_have_ends_the_task(place: Place) -> None:
    place.gateway.on_create = works
    async with place.manager():
        task = await place.submit()
        await eventually(lambda: place.gateway.created)
        (create,) = place.gateway.created.values()
        why = "could not be started: there is no directory /gone"
        exited = ReportExit(
            task_id=task.task_id, sandbox_id=create.sandbox_id, epoch=1, exit_code=None, reason=why, final=True
        )
        assert (await place.bus.request(exited)).result == "replacing"
        failed = await place.until_state(task.task_id, "failed")

    assert failed.error == why
    assert [attempt.state for attempt in failed.attempts] == ["lost"]


async def test_an_exit_after_the_report_changes_nothing(place: Place) -> None:
    place.gateway.on_create = works
    async with place.manager():
        task = await place.submit()
        await eventually(lambda: place.gateway.created)
        (create,) = place.gateway.created.values()
        await place.gateway.finishes(create)
        exited = ReportExit(
            task_id=task.task_id, sandbox_id=create.sandbox_id, epoch=1, exit_code=0, reason="worker exited"
        )
        answer = await place.bus.request(exited)
        done = await place.until_state(task.task_id, "completed")

    assert answer.result in ("ended", "moot")
    assert len(done.attempts) == 1


async def test_a_report_in_the_log_before_the_fence_wins(place: Place) -> None:
    place.gateway.on_create = place.gateway.emits
    async with place.manager():
        task = await place.submit()
        await place.until_state(task.task_id, "running")
        (create,) = place.gateway.created.values()

        async def finish_first(verb: str, _: str) -> None:
            if verb == "fence" and place.gateway.verbs(create.sandbox_id).count("fence") == 1:
                await place.gateway.reports(create, Finished(outcome="success", summary="just in time"))

        place.gateway.on_call = finish_first
        await place.bus.request(ReplaceAttempt(task_id=task.task_id, epoch=1, reason="silent"))
        done = await place.until_state(task.task_id, "completed")
        await eventually(lambda: place.gateway.deleted)

    assert (done.summary, done.error, len(done.attempts)) == ("just in time", None, 1)
    assert done.attempts[0].state == "finished"


async def test_a_request_about_an_old_epoch_is_moot(place: Place) -> None:
    place.gateway.on_create = place.gateway.emits
    async with place.manager():
        task = await place.submit()
        await place.until_state(task.task_id, "running")
        replace = ReplaceAttempt(task_id=task.task_id, epoch=1, reason="silent")
        first = await place.bus.request(replace)
        await place.until(task.task_id, lambda view: len(view.attempts) == 2 and view.state == "running")
        late = await place.bus.request(replace)
        never = await place.bus.request(ReplaceAttempt(task_id=task.task_id, epoch=9, reason="silent"))
        view = await place.get(task.task_id)

    assert (first.result, late.result, never.result) == ("replacing", "moot", "moot")
    assert [(one.epoch, one.state) for one in view.attempts] == [(1, "fenced"), (2, "running")]


STEPS = [
    "fence",
    *(pytest.param(step, marks=pytest.mark.stress) for step in ("create", "evidence", "stop", "exec", "delete")),
]


@pytest.mark.parametrize("step", STEPS)
async def test_next_manager_continues_after_a_crash_in_any_step(place: Place, step: str) -> None:
    """The manager is cut off during a call; the next manager continues from the stored state."""
    reached, dead = asyncio.Event(), asyncio.Event()

    async def hold(verb: str, _: str) -> None:
        if verb == step and not reached.is_set():
            reached.set()
            await dead.wait()

    place.gateway.on_call = hold
    place.gateway.on_create = place.gateway.emits
    async with place.manager():
        task = await place.submit(test_command="make test")
        if step != "create":
            await place.until_state(task.task_id, "running")
            place.gateway.on_create = place.gateway.finishes
            await place.bus.request(ReplaceAttempt(task_id=task.task_id, epoch=1, reason="silent"))
        async with asyncio.timeout(PATIENCE_S):
            await reached.wait()
    dead.set()
    async with place.manager():
        if step == "create":
            await place.until_state(task.task_id, "running")
            place.gateway.on_create = place.gateway.finishes
            await place.bus.request(ReplaceAttempt(task_id=task.task_id, epoch=1, reason="silent"))
        done = await place.until_state(task.task_id, "completed")
        await eventually(lambda: len(place.gateway.deleted) == 2)
        told = await eventually(lambda: place.told(task.task_id), lambda told: told[-1].state == "completed")

    assert [(one.epoch, one.state) for one in done.attempts] == [(1, "fenced"), (2, "finished")]
    first = [verb for verb in place.gateway.verbs(done.attempts[0].sandbox_id) if verb != "create"]
    assert list(dict.fromkeys(first)) == ["fence", "evidence", "stop", "delete"]
    assert [event.version for event in told] == list(range(1, done.version + 1))


async def test_missing_evidence_is_recorded_with_its_reason(place: Place) -> None:
    place.gateway.on_create = place.gateway.emits
    place.gateway.refuse["evidence"] = Fault("the disk is gone")
    async with place.manager():
        task = await place.submit()
        await place.until_state(task.task_id, "running")
        place.gateway.on_create = place.gateway.finishes
        await place.bus.request(ReplaceAttempt(task_id=task.task_id, epoch=1, reason="silent"))
        await place.until_state(task.task_id, "completed")

    async with place.database.begin() as tx:
        rows = await tx.connection.exec_driver_sql("SELECT evidence->'missing'->>0 FROM manager.replacements")
        assert rows.scalar_one() == "everything: the disk is gone"


async def test_refusal_that_every_attempt_would_get_ends_the_task_at_once(place: Place) -> None:
    async def refused(create: CreateSandbox) -> None:
        await place.gateway.reports(create, Finished(outcome="refused", error="set OPENAI_API_KEY"))

    place.gateway.on_create = refused
    async with place.manager():
        task = await place.submit(test_command="make test")
        failed = await place.until_state(task.task_id, "failed")

    assert failed.error == "set OPENAI_API_KEY"
    assert [(attempt.state, attempt.reason) for attempt in failed.attempts] == [("finished", "set OPENAI_API_KEY")]
    told = await eventually(lambda: place.told(task.task_id), lambda told: bool(told) and told[-1].state == "failed")
    assert decode(bytes(told[-1].body), dict[str, str])["reason"] == "set OPENAI_API_KEY"


async def test_sandbox_that_reappears_after_its_deletion_is_deleted_again(place: Place) -> None:
    place.settings = place.settings.model_copy(update={"reap_every_s": 0.2})
    async with place.manager():
        task = await place.submit()
        done = await place.until_state(task.task_id, "completed")
        sandbox_id = done.attempts[0].sandbox_id
        await eventually(lambda: sandbox_id in place.gateway.deleted)
        stranger = place.gateway.created[sandbox_id]
        place.gateway.created["sbx_stranger"] = _renamed(stranger, "sbx_stranger", task_id="tsk_of_somebody")
        place.gateway.created["sbx_ours"] = _renamed(stranger, "sbx_ours", task_id=task.task_id)
        place.gateway.deleted.discard(sandbox_id)
        await eventually(lambda: {sandbox_id, "sbx_ours"} <= place.gateway.deleted)

    assert "sbx_stranger" not in place.gateway.deleted


def _renamed(create: CreateSandbox, sandbox_id: str, *, task_id: str) -> CreateSandbox:
    return CreateSandbox(
        sandbox_id=sandbox_id,
        task_id=task_id,
        agent_id=create.agent_id,
        epoch=create.epoch,
        conversation_id=create.conversation_id,
        package=create.package,
        model=create.model,
        objective=create.objective,
    )
