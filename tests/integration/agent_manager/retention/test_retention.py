"""Rows are deleted when they are older than their setting, but never while they are needed."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.retention import reconcilers
from muster.agent_manager.retention.reconcilers import Retention
from muster.agent_manager.tasks.reconcilers.dependencies import DependencyResolver
from tests.support.eventually import eventually
from tests.support.managed import open_place
from tests.support.servers import Restartable
from tests.support.stored_tasks import ECHO, column, execute, manager_database, settings, submit


@pytest.fixture
async def database(manager_database_url: str) -> AsyncIterator[ManagerDatabase]:
    async with manager_database(manager_database_url) as database:
        yield database


async def look(database: ManagerDatabase, **fields: Any) -> None:
    told = {"tasks_kept_days": 30, "agents_kept_days": 30, "commands_kept_days": 30, **fields}
    await Retention(database, settings(database.url, **told)).look()


async def ended(
    database: ManagerDatabase, name: str, *, days: int = 31, state: str = "completed", step: str = "done"
) -> None:
    """Store a task that ended `days` ago, with an attempt, a replacement and published events."""
    await submit(database, task_id=name)
    await execute(database, "DELETE FROM manager.outbox")
    await execute(
        database,
        """UPDATE manager.tasks SET state = :state, epoch = 1, updated_at = now() - make_interval(days => :days)
        WHERE task_id = :name""",
        state=state,
        days=days,
        name=name,
    )
    await execute(
        database,
        """INSERT INTO manager.attempts (attempt_id, task_id, epoch, agent_id, sandbox_id, conversation_id, state, tokens,
            model_calls, cost_usd, created_at, ended_at, sandbox_deleted_at)
        VALUES ('att_' || :name, :name, 1, :agent, 'sbx_' || :name, 'cnv', 'lost', 1, 1, 1, now(), now(), now())""",
        name=name,
        agent=ECHO,
    )
    await execute(
        database,
        """INSERT INTO manager.replacements (task_id, epoch, agent_id, sandbox_id, reason, ends, "then", step, created_at)
        VALUES (:name, 1, 'agt', 'sbx', 'gone', 'lost', 'fail', :step, now())""",
        name=name,
        step=step,
    )


async def left(database: ManagerDatabase, table: str = "tasks") -> list[str]:
    return await column(database, f"SELECT task_id FROM manager.{table} ORDER BY task_id")


async def test_old_tasks_are_deleted_with_their_attempts_and_replacements(
    database: ManagerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcilers, "BATCH", 2)
    for number, state in enumerate(("completed", "failed", "cancelled", "completed", "failed")):
        await ended(database, f"old{number}", state=state)
    await ended(database, "young", days=29)

    await look(database)

    for table in ("tasks", "attempts", "replacements"):
        assert await left(database, table) == ["young"]


async def test_nothing_is_deleted_when_it_is_kept_for_ever(database: ManagerDatabase) -> None:
    await ended(database, "old", days=10_000)
    await look(database, tasks_kept_days=0)
    assert await left(database) == ["old"]


async def test_old_tasks_stay_while_work_on_them_is_pending(database: ManagerDatabase) -> None:
    await ended(database, "open", state="validating")
    await ended(database, "replacing", step="stop")
    await ended(database, "sandboxed")
    await execute(database, "UPDATE manager.attempts SET sandbox_deleted_at = NULL WHERE task_id = 'sandboxed'")
    await ended(database, "wanted")
    await ended(database, "failed", state="failed")
    waiting = await submit(database, depends_on=["wanted", "failed"])
    await execute(database, "DELETE FROM manager.outbox")
    await ended(database, "unpublished")
    await execute(
        database,
        """INSERT INTO manager.outbox (entity_id, version, event_id, subject, body, created_at)
        VALUES ('unpublished', 1, 'evt', 'task.unpublished.event.completed', '{}', now())""",
    )

    await look(database)

    assert await left(database) == sorted(
        ["failed", "open", "replacing", "sandboxed", "unpublished", "wanted", waiting.task_id]
    )


async def test_task_that_depends_on_a_deleted_task_fails(
    database: ManagerDatabase,
) -> None:
    await ended(database, "gone", state="running")
    waiting = await submit(database, depends_on=["gone"])
    for table in ("replacements", "attempts", "tasks"):
        await execute(database, f"DELETE FROM manager.{table} WHERE task_id = 'gone'")
    dependencies = DependencyResolver(database)

    assert await dependencies.find() == [waiting.task_id]
    await dependencies.act(waiting.task_id)

    (error,) = await column(database, "SELECT error FROM manager.tasks")
    assert error == "this task depends on task gone, which no longer exists"


async def test_old_launches_are_deleted_except_the_newest_ten_of_an_agent(database: ManagerDatabase) -> None:
    await execute(database, "UPDATE manager.agents SET launch = 15 WHERE agent_id = :agent", agent=ECHO)
    await execute(
        database,
        """INSERT INTO manager.agent_launches (agent_id, launch, key, started_at, ended_at)
        SELECT :agent, n, 'key', now(), now() - make_interval(days => CASE WHEN n = 2 THEN 29 ELSE 31 END)
        FROM generate_series(1, 15) n""",
        agent=ECHO,
    )
    await execute(
        database,
        """INSERT INTO manager.agent_commands (command_id, agent_id, verb, at)
        VALUES ('old', 'agt', 'start', now() - interval '31 days'), ('new', 'agt', 'start', now())""",
    )

    await look(database)

    launches = await column(database, "SELECT launch FROM manager.agent_launches ORDER BY launch")
    assert launches == [2, *range(6, 16)]
    assert await column(database, "SELECT command_id FROM manager.agent_commands") == ["new"]


async def test_running_manager_deletes_old_rows(nats_server: Restartable, manager_database_url: str) -> None:
    async with manager_database(manager_database_url) as database:
        await ended(database, "old", days=401)
        await ended(database, "young", days=399)
        async with open_place(nats_server.url, manager_database_url) as place, place.manager():
            await eventually(lambda: _only(database, "young"))


async def _only(database: ManagerDatabase, name: str) -> bool:
    return await left(database) == [name]
