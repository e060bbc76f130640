"""The manager's tables on a real PostgreSQL: revisions, limits, locks, and transitions that the database refuses."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from muster.agent_manager.database import outbox
from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.database.schema import migrate, refuse_older
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.domain.states import IllegalTransitionError
from muster.agent_manager.tasks.domain.tasks import turn
from muster.agent_manager.tasks.handlers.submission import TaskSubmission
from muster.agent_manager.tasks.handlers.tasks import TaskRequests
from muster.agent_manager.tasks.store import attempts, next_task
from muster.agent_manager.tasks.store.transitions import change_task, lock_task
from muster.common.clock import utc_now
from muster.common.contract import decode, encode
from muster.common.contracts.model_calls import ModelCalled
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.tasks import CancelTask, GetTask, ListTasks, SubmitTask, TaskChanged, TaskView
from muster.common.faults import InvalidMessage, NotFound, TooMany, Unavailable
from muster.common.ids import new_id
from muster.common.postgres.history import EMPTY, HEAD, ONE_BACK, NewSchema, OldSchema
from tests.support.stored_tasks import CATALOGUE, ECHO, column, execute, manager_database, settings

UNTIL_THE_NEXT_RELEASE = {
    ("agents", "config"),
    *(("tasks", name) for name in ("objective", "repo", "test_command", "paths", "timeout_s")),
    *(("tasks", name) for name in ("ticket_id", "phase_id", "metadata")),
}
"""Columns that only the release before this one reads and writes (revision 0009)."""


@pytest.fixture
async def database(manager_database_url: str) -> AsyncIterator[ManagerDatabase]:
    async with manager_database(manager_database_url) as database:
        await outbox.delivered(database, [letter.id for letter in await outbox.oldest(database)])
        yield database


async def submit(database: ManagerDatabase, most: int = 1_000, **fields: Any) -> TaskView:
    told: dict[str, Any] = {"task_id": new_id("tsk"), "objective": "do it", "package": "echo", **fields}
    unasked = cast("SandboxGatewayClient", None)  # A task without model and repository needs no request to the gateway.
    submission = TaskSubmission(database, settings(database.url, max_pending=most), CATALOGUE, unasked)
    return await submission.submit(SubmitTask(**told))


async def tables(database: ManagerDatabase) -> set[str]:
    async with database.begin() as tx:
        query = text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'manager'")
        return set((await tx.connection.execute(query)).scalars())


async def test_schema_survives_upgrade_downgrade_and_upgrade(database_url: str) -> None:
    async with open_database(database_url, now=utc_now, new_id=new_id) as database:
        with pytest.raises(OldSchema, match=r"revision none, this service needs [0-9]{4}: run"):
            await refuse_older(database)
        await asyncio.gather(migrate(database_url), migrate(database_url))
        await refuse_older(database)
        up = await tables(database)
        await migrate(database_url, EMPTY)
        assert await tables(database) == {"alembic_version"}
        with pytest.raises(OldSchema):
            await refuse_older(database)
        await migrate(database_url, HEAD)
        assert await tables(database) == up
        await migrate(database_url, "0001")
        assert up - await tables(database) == {"agent_commands", "agent_launches", "agent_totals", "managers"}


async def test_unknown_revision_is_refused_and_a_newer_one_is_not_changed(
    database: ManagerDatabase,
) -> None:
    with pytest.raises(InvalidMessage, match="no revision 'nowhere'; choose one of 0001, 0002, 0003, 0004, "):
        await migrate(database.url, "nowhere")
    async with database.begin() as tx:
        await tx.connection.execute(text("UPDATE manager.alembic_version SET version_num = '9999'"))

    await migrate(database.url, HEAD)

    await refuse_older(database)
    for to in (EMPTY, ONE_BACK, "0001"):
        with pytest.raises(NewSchema, match="is at revision 9999, which this release does not know"):
            await migrate(database.url, to)


async def test_impossible_migration_is_reported(database_url: str) -> None:
    for revision, says in ((ONE_BACK, "cannot migrate from nothing to -1"), ("", "has no revision ''")):
        with pytest.raises(InvalidMessage, match=says):
            await migrate(database_url, revision)


async def test_the_tables_of_the_queries_are_those_of_the_migrations(database: ManagerDatabase) -> None:
    from muster.agent_manager.database.tables import metadata

    async with database.begin() as tx:
        query = text("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'manager'")
        found = {tuple(row) for row in await tx.connection.execute(query)}
    wanted = {(table.name, column.name) for table in metadata.tables.values() for column in table.columns}
    assert found - {("alembic_version", "version_num")} - UNTIL_THE_NEXT_RELEASE == wanted


async def test_repeated_submission_is_stored_once(database: ManagerDatabase) -> None:
    task_id = new_id("tsk")
    views = await asyncio.gather(*(submit(database, task_id=task_id, labels={"a": "b"}) for _ in range(8)))
    assert {encode(view) for view in views} == {encode(views[0])}
    (letter,) = await outbox.oldest(database)
    told = decode(letter.body, TaskChanged)
    assert (told.kind, told.version, told.task_id, told.event_id) == ("queued", 1, task_id, letter.event_id)


async def test_the_queue_limit_is_exact_under_concurrent_submissions(database: ManagerDatabase) -> None:
    answers = await asyncio.gather(*(submit(database, most=5) for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(answer, TaskView) for answer in answers) == 5
    assert sum(isinstance(answer, TooMany) for answer in answers) == 7


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"package": "unknown"}, "$.package"),
        ({"agent_id": "agt_nobody"}, "$.agent_id"),
        ({"depends_on": ["tsk_nowhere"]}, "$.depends_on"),
    ],
)
async def test_submission_or_cancellation_with_missing_objects_is_refused(
    database: ManagerDatabase, wrong: dict[str, Any], field: str
) -> None:
    tasks = TaskRequests(database)
    with pytest.raises(InvalidMessage) as refused:
        await submit(database, **wrong)
    assert refused.value.field == field
    with pytest.raises(NotFound):
        await tasks.cancel(CancelTask(task_id="tsk_nowhere"))
    assert await outbox.oldest(database) == []


async def test_task_of_another_project_looks_like_a_missing_task(database: ManagerDatabase) -> None:
    red = await submit(database, project="red")
    said = list[str]()
    for depends_on in (red.task_id, new_id("tsk")):
        with pytest.raises(InvalidMessage) as refused:
            await submit(database, project="blue", depends_on=[depends_on])
        assert refused.value.field == "$.depends_on"
        said.append(str(refused.value).replace(depends_on, "it"))
    assert said == ["dependency it is not a task of project blue"] * 2
    assert (await submit(database, project="red", depends_on=[red.task_id])).state == "blocked"


async def test_pages_contain_every_task_once_newest_first(database: ManagerDatabase) -> None:
    tasks = TaskRequests(database)
    ids = [(await submit(database)).task_id for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = await tasks.page(ListTasks(limit=3, cursor=cursor, state="queued"))
        seen += [task.task_id for task in page.tasks]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == ids[::-1]
    blue = await submit(database, project="blue")
    assert [task.task_id for task in (await tasks.page(ListTasks(project="blue"))).tasks] == [blue.task_id]
    assert (await tasks.page(ListTasks(project="red"))).tasks == []
    both, _ = await submit(database, labels={"team": "a", "x": "1"}), await submit(database, labels={"team": "a"})
    assert len((await tasks.page(ListTasks(labels={"team": "a"}))).tasks) == 2
    wanted = ListTasks(labels={"team": "a", "x": "1"}, project="default")
    assert [task.task_id for task in (await tasks.page(wanted)).tasks] == [both.task_id]
    assert (await tasks.page(ListTasks(labels={"team": "a"}, project="blue"))).tasks == []
    with pytest.raises(InvalidMessage, match="NUL"):
        await tasks.page(ListTasks(labels={"team": "\0"}))


async def test_urgent_tasks_are_dispatched_first_then_older_and_long_waiting_ones(database: ManagerDatabase) -> None:
    waited_s = {"LOW": [0, 400, 2000], "NORMAL": [10, 700], "HIGH": [5, 290], "CRITICAL": [0, 1]}
    expected: list[tuple[int, float, str]] = []
    for priority, waits in waited_s.items():
        for waited in waits:
            task_id = (await submit(database, priority=priority)).task_id
            expected.append((turn(priority, waited, 300), -waited, task_id))  # type: ignore[arg-type]
            async with database.begin() as tx:
                query = text(
                    "UPDATE manager.tasks SET created_at = created_at - CAST(:waited AS interval) WHERE task_id = :task_id"
                )
                await tx.connection.execute(query, {"waited": timedelta(seconds=waited), "task_id": task_id})
    begun: list[str] = []
    while True:
        async with database.begin() as tx:
            if (task := await next_task.next_task(tx, max_running=16, ageing_s=300)) is None:
                break
            await next_task.open_attempt(tx, task, ECHO)
            begun.append(task.task_id)
    assert begun == [task_id for _, _, task_id in sorted(expected)]


async def test_parallel_dispatchers_open_one_epoch_per_task_and_keep_the_limit(database: ManagerDatabase) -> None:
    for _ in range(12):
        await submit(database)

    async def dispatch(other: ManagerDatabase) -> None:
        while True:
            async with other.begin() as tx:
                task = await next_task.next_task(tx, max_running=8, ageing_s=300)
                if task is None:
                    return
                await next_task.open_attempt(tx, task, ECHO)

    async with open_database(database.url, now=utc_now, new_id=new_id) as second:
        await asyncio.gather(*(dispatch(one) for one in (database, second) for _ in range(3)))

    async with database.begin() as tx:
        rows = (await tx.connection.execute(text("SELECT task_id, epoch FROM manager.attempts"))).all()
    assert len(rows) == len({row.task_id for row in rows}) == 8
    assert {row.epoch for row in rows} == {1}


async def test_database_refuses_an_illegal_transition_and_a_second_live_epoch(database: ManagerDatabase) -> None:
    task_id = (await submit(database)).task_id
    with pytest.raises(IllegalTransitionError):
        async with database.begin() as tx:
            task = await lock_task(tx, task_id)
            assert task is not None
            await change_task(tx, task, "completed")
    async with database.begin() as tx:
        task = await lock_task(tx, task_id)
        assert task is not None
        agent_id = ECHO
        await next_task.open_attempt(tx, task, agent_id)
    with pytest.raises(IntegrityError, match="one_live_epoch"):
        async with database.begin() as tx:
            again = msgspec.structs.replace(task, epoch=1)
            await next_task.open_attempt(tx, again, agent_id)


async def test_repeated_model_call_event_is_counted_once(database: ManagerDatabase) -> None:
    task_id = (await submit(database)).task_id
    async with database.begin() as tx:
        task = await lock_task(tx, task_id)
        assert task is not None
        attempt = await next_task.open_attempt(tx, task, ECHO)
    for request_id in ("one", "two", "one"):
        call = ModelCalled(
            partition="00",
            sandbox_id=attempt.sandbox_id,
            task_id=task_id,
            epoch=1,
            request_id=request_id,
            at=utc_now(),
            model="m",
            provider="p",
            prompt_tokens=2,
            completion_tokens=3,
            cost_usd=0.25,
            seconds=1,
            status=200,
        )
        async with database.begin() as tx:
            await attempts.meter(tx, "MODEL_CALLS", call)
    async with database.begin() as tx:
        counted = await attempts.of_epoch(tx, task_id, 1)
    assert counted is not None
    assert (counted.tokens, counted.model_calls, counted.cost_usd) == (10, 2, 0.5)


async def test_unreachable_database_raises_unavailable() -> None:
    async with open_database("postgresql://a:b@127.0.0.1:1/none", now=utc_now, new_id=new_id) as database:
        with pytest.raises(Unavailable, match="PostgreSQL is unreachable"):
            async with database.begin():
                pass


async def test_previous_and_current_release_read_each_others_tasks(database_url: str) -> None:
    old = """INSERT INTO manager.tasks (task_id, package, model, objective, repo, test_command, paths, timeout_s, priority,
            project, labels, depends_on, ticket_id, metadata, state, version, epoch, created_at, updated_at)
        VALUES (:task_id, 'echo', 'none', 'do it', '{"url": "u", "ref": null}', 'make', '["a"]', 7, 'HIGH', 'default',
            '{"a": "b"}', '{tsk_x}', 'T-1', '{"k": [1]}', 'failed', 1, 0, now(), now())"""
    await migrate(database_url, "0008")
    async with open_database(database_url, now=utc_now, new_id=new_id) as database:
        await execute(database, old, task_id="tsk_before")
    await migrate(database_url)
    async with manager_database(database_url) as database:
        await execute(database, old, task_id="tsk_beside")  # A replica of the previous release stores this task.
        found = [await TaskRequests(database).get(GetTask(task_id=task_id)) for task_id in ("tsk_before", "tsk_beside")]
        for view in found:
            assert (view.objective, view.repo, view.test_command) == ("do it", Repo(url="u"), "make")
            assert (view.paths, view.timeout_s, view.priority, view.labels) == (["a"], 7.0, "HIGH", {"a": "b"})
            assert (view.depends_on, view.ticket_id, view.metadata) == (["tsk_x"], "T-1", {"k": [1]})
            assert (view.phase_id, view.requires, view.env) == (None, [], {})

        new = await submit(database, objective="new", paths=["b"], timeout_s=9, ticket_id="T-2", metadata={"k": 2})
        columns = "jsonb_build_array(objective, repo, test_command, paths, timeout_s, ticket_id, phase_id, metadata)"
        (seen,) = await column(database, f"SELECT {columns} FROM manager.tasks WHERE task_id = :id", id=new.task_id)
        assert seen == ["new", None, None, ["b"], 9, "T-2", None, {"k": 2}]
        await migrate(database_url, ONE_BACK)
        (seen,) = await column(database, f"SELECT {columns} FROM manager.tasks WHERE task_id = :id", id=new.task_id)
        assert seen[0] == "new"
