"""The agent manager's whole path on a real NATS and a real PostgreSQL; only the gateway is a double."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from muster.agent_manager.domain.packages import Catalogue
from muster.agent_manager.service import STREAMS, answering, discovery, keeping
from muster.agent_manager.settings import Settings
from muster.agent_manager.store.database import Database, open_database
from muster.agent_manager.store.schema import migrate
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.journal import Journal
from muster.common.bus.streams import ensure_stream
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.contracts.gateway import CreateSandbox, Repo
from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.tasks import (
    CancelTask,
    GetTask,
    ListTasks,
    ReplaceAttempt,
    ReportExit,
    SubmitTask,
    TaskChanged,
    TaskView,
)
from muster.common.faults import Conflict, Fault, InvalidMessage, Unavailable
from muster.common.ids import new_id
from muster.common.supervision import supervise
from tests.support.gateway_double import GatewayDouble
from tests.support.servers import Restartable


@dataclass
class Place:
    """The servers, the gateway's double, and managers that come and go."""

    bus: Bus
    database: Database
    gateway: GatewayDouble
    settings: Settings
    catalogue: Catalogue

    @asynccontextmanager
    async def manager(self) -> AsyncGenerator[None]:
        """One manager; at the end of the block all of its loops are cut off, wherever they are."""
        async with asyncio.TaskGroup() as tasks:
            parts = (self.bus, self.database, self.settings, self.catalogue)
            loops = [tasks.create_task(supervise(name, run)) for name, run in keeping(*parts)]
            try:
                async with answering(*parts):
                    yield
            finally:
                for loop in loops:
                    loop.cancel()

    async def submit(self, **fields: object) -> TaskView:
        told = {"task_id": new_id("tsk"), "objective": "make it work", "package": "echo", **fields}
        return await self.bus.request(SubmitTask(**told))  # type: ignore[arg-type]

    async def get(self, task_id: str) -> TaskView:
        return await self.bus.request(GetTask(task_id=task_id))

    async def until(self, task_id: str, true: Callable[[TaskView], object]) -> TaskView:
        """Wait until the task is as it should be, woken by what the outbox tells."""
        async with asyncio.timeout(20), self.bus.woken_by(f"task.{task_id}.event.*") as woken:
            while not true(view := await self.get(task_id)):
                woken.clear()
                try:
                    async with asyncio.timeout(0.25):
                        await woken.wait()
                except TimeoutError:
                    continue
            return view

    async def until_state(self, task_id: str, state: str) -> TaskView:
        return await self.until(task_id, lambda view: view.state == state)

    async def told(self, task_id: str) -> list[TaskChanged]:
        stored = Journal(self.bus).replay("TASKS", f"task.{task_id}.event.*")
        return [decode(one.body, TaskChanged) async for one in stored]


@pytest.fixture
async def place(nats_server: Restartable, database_url: str) -> AsyncIterator[Place]:
    await migrate(database_url)
    settings = Settings(nats_url=nats_server.url, database_url=database_url, recheck_s=0.5)  # type: ignore[arg-type]
    async with (
        open_bus(nats_server.url, "test") as bus,
        open_database(database_url, now=utc_now, new_id=new_id) as database,
    ):
        catalogue = Catalogue()
        await discovery(database, settings, catalogue).look()
        for stream in STREAMS:
            await ensure_stream(bus, stream)
        gateway = GatewayDouble(bus)
        await gateway.prepare()
        async with gateway.service():
            yield Place(bus, database, gateway, settings, catalogue)


async def eventually(true: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not true():
            await asyncio.sleep(0.02)  # a list of another task: nothing to await


async def works(_: CreateSandbox) -> None:
    """A worker that takes its time."""
    await asyncio.sleep(0)


async def test_a_task_runs_is_tested_completes_and_its_sandbox_goes(place: Place) -> None:
    async with place.manager():
        task = await place.submit(test_command="make test")
        done = await place.until_state(task.task_id, "completed")
        await place.until(task.task_id, lambda view: view.attempts[0].tokens)
        await eventually(lambda: place.gateway.deleted)

    assert (done.summary, done.diff, done.error) == ("did it", "+1", None)
    assert "ran make test" in str(done.validation)
    (attempt,) = (await _view(place, task.task_id)).attempts
    assert (attempt.state, attempt.tokens, attempt.model_calls, attempt.cost_usd) == ("finished", 10, 1, 0.5)
    assert place.gateway.verbs(attempt.sandbox_id) == ["create", "exec", "delete"]
    told = await place.told(task.task_id)
    assert [event.kind for event in told] == ["queued", "assigned", "running", "validating", "completed"]
    assert [event.version for event in told] == [1, 2, 3, 4, 5]


async def _view(place: Place, task_id: str) -> TaskView:
    async with answering(place.bus, place.database, place.settings, place.catalogue):
        return await place.get(task_id)


async def test_a_failed_test_is_tried_again_and_then_fails_for_good(place: Place) -> None:
    place.gateway.exit_code = 1
    async with place.manager():
        task = await place.submit(test_command="make test")
        failed = await place.until_state(task.task_id, "failed")
        await eventually(lambda: len(place.gateway.deleted) == 3)

    assert [attempt.epoch for attempt in failed.attempts] == [1, 2, 3]
    assert failed.error == "the test command failed with exit code 1"
    assert "ran make test" in str(failed.validation)


async def test_nul_characters_of_a_worker_and_of_a_test_hold_nothing_up(place: Place) -> None:
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


async def test_what_the_gateway_refuses_fails_the_task_with_its_sentence(place: Place) -> None:
    place.gateway.refuse["create"] = InvalidMessage("file:// is not allowed here", field="$.repo.url")
    async with place.manager():
        task = await place.submit()
        failed = await place.until_state(task.task_id, "failed")

    assert failed.error == "file:// is not allowed here"
    assert [attempt.state for attempt in failed.attempts] == ["lost"]


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


async def test_an_exit_that_every_attempt_would_meet_ends_the_task(place: Place) -> None:
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


@pytest.mark.parametrize("step", ["create", "fence", "evidence", "stop", "exec", "delete"])
async def test_a_manager_cut_off_in_any_step_is_continued_by_the_next(place: Place, step: str) -> None:
    """The call arrives, the manager dies, the next one goes on from what is stored."""
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
        async with asyncio.timeout(15):
            await reached.wait()
    dead.set()
    async with place.manager():
        if step == "create":
            await place.until_state(task.task_id, "running")
            place.gateway.on_create = place.gateway.finishes
            await place.bus.request(ReplaceAttempt(task_id=task.task_id, epoch=1, reason="silent"))
        done = await place.until_state(task.task_id, "completed")
        await eventually(lambda: len(place.gateway.deleted) == 2)

    assert [(one.epoch, one.state) for one in done.attempts] == [(1, "fenced"), (2, "finished")]
    first = [verb for verb in place.gateway.verbs(done.attempts[0].sandbox_id) if verb != "create"]
    assert list(dict.fromkeys(first)) == ["fence", "evidence", "stop", "delete"]
    versions = [event.version for event in await place.told(task.task_id)]
    assert versions == list(range(1, done.version + 1))


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


async def test_a_task_that_takes_too_long_fails(place: Place) -> None:
    place.settings = place.settings.model_copy(update={"timeout_grace_s": 0.0})
    place.gateway.on_create = place.gateway.emits
    async with place.manager():
        task = await place.submit(timeout_s=1.0)
        failed = await place.until_state(task.task_id, "failed")

    assert failed.error == "timed out after 1 s"
    assert [attempt.state for attempt in failed.attempts] == ["fenced"]


async def test_evidence_that_cannot_be_had_is_recorded_with_its_reason(place: Place) -> None:
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


async def test_what_can_never_be_started_is_refused_when_it_is_submitted(place: Place) -> None:
    repo = Repo(url="gopher://old/x")
    place.gateway.refuse["check"] = InvalidMessage("a repository's URL begins with https", field="$.repo.url")
    async with place.manager():
        with pytest.raises(InvalidMessage, match="begins with https") as refused:
            await place.submit(repo=repo)
        assert (await place.bus.request(ListTasks())).tasks == []
        for passing in (Unavailable("later"), Fault("a bug of the gateway's")):  # cannot tell now: the task waits
            place.gateway.refuse["check"] = passing
            await place.submit(repo=repo)

    assert refused.value.field == "$.repo.url"


@pytest.mark.parametrize(
    ("config", "field"), [("loud", "$.metadata.config"), ({"prefix": 3}, "$.metadata.config.prefix")]
)
async def test_a_task_cannot_bring_a_config_that_its_package_does_not_take(
    place: Place, config: object, field: str
) -> None:
    async with answering(place.bus, place.database, place.settings, place.catalogue):
        with pytest.raises(InvalidMessage) as refused:
            await place.submit(package="echo", metadata={"config": config})
        await place.submit(package="echo", metadata={"config": {"prefix": "> "}})

    assert refused.value.field == field


async def test_a_refusal_that_every_attempt_would_meet_ends_the_task_at_the_first(place: Place) -> None:
    async def refused(create: CreateSandbox) -> None:
        await place.gateway.reports(create, Finished(outcome="refused", error="set OPENAI_API_KEY"))

    place.gateway.on_create = refused
    async with place.manager():
        task = await place.submit(test_command="make test")
        failed = await place.until_state(task.task_id, "failed")

    assert failed.error == "set OPENAI_API_KEY"
    assert [(attempt.state, attempt.reason) for attempt in failed.attempts] == [("finished", "set OPENAI_API_KEY")]
    last = (await place.told(task.task_id))[-1]
    assert decode(bytes(last.body), dict[str, str])["reason"] == "set OPENAI_API_KEY"


async def test_a_task_waits_for_those_it_depends_on(place: Place) -> None:
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


async def test_a_sandbox_that_comes_back_from_the_dead_is_reaped(place: Place) -> None:
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


async def test_a_task_without_a_model_is_refused_unless_its_package_needs_none(place: Place) -> None:
    async with answering(place.bus, place.database, place.settings, place.catalogue):
        with pytest.raises(InvalidMessage, match="openhands needs a model") as refused:
            await place.submit(package="openhands")
        echoed = await place.submit(package="echo")

    assert refused.value.field == "$.model"
    assert echoed.model == "none"
