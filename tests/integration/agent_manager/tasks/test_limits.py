"""What ends a run is said in words and as `limit`; the next attempt is told what the one before it did."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from muster.agent_manager.tasks.store import attempts, tasks
from muster.common.clock import utc_now
from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.model_calls import ModelCalled, ModelFailed
from muster.common.contracts.sandbox_log import Finished, FrameKind, partition
from muster.common.contracts.task_spec import Repo
from tests.support.managed import Place, open_place
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable

REPO = Repo(url="https://example.com/a.git")
CUDA = ModelFailed(
    request_id="req_1",
    model="local",
    provider="hosted_vllm",
    kind="server_error",
    error="CUDA out of memory",
    status=500,
    tries=3,
    step=3,
)


@pytest.fixture
async def place(nats_server: Restartable, manager_database_url: str) -> AsyncIterator[Place]:
    async with open_place(nats_server.url, manager_database_url) as place:
        yield place


async def test_limit_that_the_gateway_tells_ends_the_task_although_the_worker_goes_on(place: Place) -> None:
    async def runs_away(create: CreateSandbox) -> None:
        await place.gateway.emits(create)
        told = ModelFailed(
            request_id="req_9", model="m", provider="p", kind="limit", error="the limit of 5 model calls", limit="steps"
        )
        await place.gateway.append(create, FrameKind.MODEL_FAILED, told)

    place.gateway.on_create = runs_away
    async with place.manager():
        task = await place.submit(max_steps=5)
        failed = await place.until_state(task.task_id, "failed")
    assert (failed.limit, failed.error) == ("steps", "the limit of 5 model calls")
    (attempt,) = failed.attempts
    assert (attempt.state, attempt.limit) == ("fenced", "steps")


async def test_task_that_completes_although_a_limit_was_reached_has_no_limit(place: Place) -> None:
    async def finishes(create: CreateSandbox) -> None:
        await place.gateway.emits(create)
        told = msgspec.structs.replace(CUDA, kind="limit", limit="steps")
        await place.gateway.append(create, FrameKind.MODEL_FAILED, told)
        await place.gateway.reports(create, Finished(outcome="success", summary="did it", diff="+1"))

    place.gateway.on_create = finishes
    async with place.manager():
        task = await place.submit(max_steps=5)
        done = await place.until(task.task_id, lambda view: view.state in ("completed", "failed"))
    assert (done.state, done.limit) == ("completed", None)


async def test_failing_model_is_shown_while_it_fails_and_is_the_error_of_a_task_that_reaches_its_time_limit(
    place: Place,
) -> None:
    async def fails(create: CreateSandbox) -> None:
        await place.gateway.emits(create)
        await place.gateway.append(create, FrameKind.MODEL_FAILED, CUDA)

    place.gateway.on_create = fails
    place.settings = place.settings.model_copy(update={"timeout_grace_s": 1.0})
    async with place.manager():
        task = await place.submit(timeout_s=1.0)
        seen = await place.until(task.task_id, lambda view: view.attempts and view.attempts[0].model_failure)
        assert seen.attempts[0].model_failure == CUDA
        failed = await place.until_state(task.task_id, "failed")
    assert failed.limit == "time"
    assert failed.error is not None
    assert failed.error.startswith("the model local failed 3 times in a row (server error 500): CUDA out of memory. ")


async def test_error_of_a_run_that_its_model_ended_names_the_model(place: Place) -> None:
    async def fails(create: CreateSandbox) -> None:
        await place.gateway.emits(create)
        await place.gateway.append(create, FrameKind.MODEL_FAILED, CUDA)
        await place.gateway.reports(create, Finished(outcome="refused", error="no answer"))

    place.gateway.on_create = fails
    async with place.manager():
        task = await place.submit()
        failed = await place.until_state(task.task_id, "failed")
    assert "CUDA out of memory" in str(failed.error)
    assert str(failed.error).endswith("no answer")


async def test_next_attempt_is_told_the_end_of_the_failed_test_and_what_the_one_before_used(place: Place) -> None:
    place.gateway.exit_code, place.gateway.prints = 1, "AssertionError: 3 != 4 in "
    place.settings = place.settings.model_copy(update={"max_attempts": 2})
    async with place.manager():
        task = await place.submit(test_command="make test")
        failed = await place.until_state(task.task_id, "failed")
    first, second = (place.gateway.created[attempt.sandbox_id] for attempt in failed.attempts)
    assert first.previous is None
    assert second.previous is not None
    assert (second.previous.epoch, second.previous.ended) == (1, "the test command failed with exit code 1")
    assert "AssertionError: 3 != 4" in second.previous.validation
    assert (second.previous.summary, second.previous.diff) == ("did it", "+1")
    assert (first.used.steps, second.used.steps) == (0, 1)


async def test_package_decides_the_limits_that_the_submitter_leaves_open(place: Place) -> None:
    async with place.manager():
        plain = await place.submit()
        model = await place.submit(package="openhands", model="scripted/x", timeout_s=900.0)
        both = await place.submit(package="openhands", model="scripted/x")
    assert (plain.timeout_s, plain.max_steps, plain.max_tokens) == (300.0, None, None)
    assert (model.timeout_s, both.timeout_s) == (900.0, 1_800.0)
    assert both.max_steps
    assert both.max_tokens


async def test_run_that_changed_nothing_fails_where_a_change_is_expected(place: Place) -> None:
    async def changes_nothing(create: CreateSandbox) -> None:
        await place.gateway.emits(create)
        await place.gateway.reports(create, Finished(outcome="success", summary="looks fine"))

    place.gateway.on_create = changes_nothing
    place.settings = place.settings.model_copy(update={"max_attempts": 2})
    async with place.manager():
        changing = await place.submit(repo=REPO, test_command="make test")
        asking = await place.submit(repo=REPO, expect="answer")
        failed = await place.until_state(changing.task_id, "failed")
        answered = await place.until_state(asking.task_id, "completed")
    assert "changed no file" in str(failed.error)
    assert len(failed.attempts) == 2, "a further attempt may change something"
    assert answered.summary == "looks fine"


async def test_question_is_no_success_and_is_told_without_a_further_attempt(place: Place) -> None:
    async def asks(create: CreateSandbox) -> None:
        await place.gateway.emits(create)
        report = Finished(outcome="failure", summary="Should I fix it?", error="the agent asked", question=True)
        await place.gateway.reports(create, report)

    place.gateway.on_create = asks
    async with place.manager():
        task = await place.submit(repo=REPO)
        failed = await place.until_state(task.task_id, "failed")
    assert failed.error == "the agent asked: Should I fix it?"
    assert len(failed.attempts) == 1


async def test_record_of_a_model_call_does_not_wait_for_a_writer_that_has_locked_the_task(place: Place) -> None:
    place.gateway.on_create = place.gateway.emits
    async with place.manager():
        task = await place.submit()
        running = await place.until_state(task.task_id, "running")
    sandbox_id = running.attempts[0].sandbox_id
    call = ModelCalled(
        partition=partition(sandbox_id),
        sandbox_id=sandbox_id,
        task_id=task.task_id,
        epoch=1,
        request_id="req_1",
        at=utc_now(),
        model="local",
        provider="hosted_vllm",
        prompt_tokens=7,
        completion_tokens=3,
        cost_usd=0.5,
        seconds=0.1,
        status=500,
        failed=CUDA,
    )
    async with asyncio.timeout(PATIENCE_S), place.database.begin() as writer:
        found = await attempts.of_sandbox(writer, sandbox_id)
        assert found is not None
        async with place.database.begin() as tx:
            await attempts.meter(tx, "MODEL_CALLS", call)
        await attempts.note(writer, found[1], reason="another writer")
    async with place.database.begin() as tx:
        (attempt,) = await tasks.attempts_of(tx, task.task_id)
    assert (attempt.tokens, attempt.reason, attempt.model_failure) == (10, "another writer", CUDA)
