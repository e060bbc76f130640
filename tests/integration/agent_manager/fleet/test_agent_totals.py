"""The totals of an agent are updated with each change of its attempts and stay after their deletion.

PostgreSQL is real.
"""

from datetime import UTC, datetime

from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.database.schema import migrate
from muster.agent_manager.fleet.store import states
from muster.agent_manager.tasks.store import attempts, next_task, replacements
from muster.agent_manager.tasks.store.transitions import change_task, lock_task
from muster.common.clock import utc_now
from muster.common.contracts.model_calls import ModelCalled
from muster.common.ids import new_id
from tests.support.stored_tasks import ECHO, execute, manager_database, submit


def called(sandbox_id: str, request_id: str) -> ModelCalled:
    return ModelCalled(
        partition="00",
        sandbox_id=sandbox_id,
        task_id="tsk_1",
        epoch=1,
        request_id=request_id,
        at=datetime(2026, 11, 30, tzinfo=UTC),
        model="m",
        provider="p",
        prompt_tokens=7,
        completion_tokens=3,
        cost_usd=0.5,
        seconds=1.0,
        status=200,
    )


async def opened(database: ManagerDatabase, *, agent_id: str = ECHO) -> str:
    """Open an attempt at the next task; return its sandbox."""
    async with database.begin() as tx:
        task = await next_task.next_task(tx, max_running=100, ageing_s=300)
        assert task is not None
        return (await next_task.open_attempt(tx, task, agent_id)).sandbox_id


async def tried_again(database: ManagerDatabase, sandbox_id: str) -> None:
    """End an attempt, so that its task is queued again."""
    async with database.begin() as tx:
        found = await attempts.of_sandbox(tx, sandbox_id)
        assert found is not None
        await replacements.begin(tx, *found, reason="lost", ends="lost", then="retry")
        task = await lock_task(tx, found[0].task_id)
        assert task is not None
        await attempts.step(tx, found[1], "lost")
        await change_task(tx, task, "queued")


async def counted(database: ManagerDatabase, agent_id: str = ECHO) -> dict[str, float]:
    async with database.begin() as tx:
        return await states.counted(tx, agent_id)


async def test_totals_of_an_agent_count_its_attempts_and_calls_and_stay_after_their_deletion(
    manager_database_url: str,
) -> None:
    async with manager_database(manager_database_url) as database:
        assert await counted(database) == {"tasks": 0, "model_calls": 0, "tokens": 0, "cost_usd": 0}
        await submit(database)
        first = await opened(database)
        await tried_again(database, first)
        second = await opened(database)  # of the same task
        await submit(database)
        third = await opened(database)
        async with database.begin() as tx:
            for sandbox_id, request_id in ((first, "1"), (second, "2"), (third, "3"), (third, "3"), (third, "4")):
                await attempts.meter(tx, "MODEL_CALLS", called(sandbox_id, request_id))
        expected = {"tasks": 2, "model_calls": 4, "tokens": 40, "cost_usd": 2}
        assert await counted(database) == expected

        await execute(database, "DELETE FROM manager.replacements")
        await execute(database, "DELETE FROM manager.attempts")
        assert await counted(database) == expected


async def test_totals_begin_with_the_attempts_that_an_older_release_has_stored(database_url: str) -> None:
    await migrate(database_url, "0004")
    async with open_database(database_url, now=utc_now, new_id=new_id) as database:
        await execute(
            database,
            """INSERT INTO manager.tasks (task_id, package, model, objective, paths, timeout_s, priority, project, labels,
                depends_on, metadata, state, version, epoch, created_at, updated_at)
            SELECT 'tsk_' || n, 'echo', 'none', 'do it', '[]', 1, 'NORMAL', 'default', '{}', '{}', '{}', 'failed', 1, 2,
                now(), now() FROM generate_series(1, 2) n""",
        )
        await execute(
            database,
            """INSERT INTO manager.attempts (attempt_id, task_id, epoch, agent_id, sandbox_id, conversation_id, state,
                tokens, model_calls, cost_usd, created_at)
            SELECT 'att_' || n || '_' || e, 'tsk_' || n, e, 'agt_' || n, 'sbx_' || n || '_' || e, 'cnv', 'lost',
                10 * n, n, 0.5, now() FROM generate_series(1, 2) n, generate_series(1, 2) e""",
        )
        await migrate(database_url)
        assert await counted(database, "agt_1") == {"tasks": 1, "model_calls": 2, "tokens": 20, "cost_usd": 1}
        assert await counted(database, "agt_2") == {"tasks": 1, "model_calls": 4, "tokens": 40, "cost_usd": 1}
