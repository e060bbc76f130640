"""Lists, counts and loops read few rows, however many tasks have ended. The plans of a real PostgreSQL prove it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import pytest
from sqlalchemy import text

from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.handlers.agent_registry import AgentRegistry
from muster.agent_manager.fleet.store import agents, states
from muster.agent_manager.retention import store
from muster.agent_manager.tasks.handlers.tasks import TaskRequests
from muster.agent_manager.tasks.store import attempts, next_task, replacements
from muster.agent_manager.tasks.store import tasks as stored
from muster.common.clock import utc_now
from muster.common.contracts.agent_registry import GetAgent, ListAgents
from muster.common.contracts.tasks import GetTask, ListTasks
from muster.common.ids import new_id
from muster.embedded.postgres import Postgres
from tests.support.plans import ExplainingReader, touched
from tests.support.servers import run_now, temporary_database
from tests.support.stored_tasks import CATALOGUE, ECHO, execute, manager_database, multiply, settings, submit

ENDED: Final = 10_000
FEW: Final = 200
TABLES: Final = ("tasks", "attempts", "replacements")


@pytest.fixture(scope="module")
def seeded_url(shared_postgres: Postgres, manager_template: str) -> Iterator[str]:
    """The URL of a database for the tests of this module, which do not change it."""
    with temporary_database(shared_postgres, like=manager_template) as url:
        run_now(seed(url))
        yield url


@pytest.fixture
async def database(seeded_url: str) -> AsyncIterator[ManagerDatabase]:
    async with open_database(seeded_url, now=utc_now, new_id=new_id) as database:
        yield database


async def seed(url: str) -> None:
    """Fill a new database with tasks."""
    async with manager_database(url) as database:
        await fill(database)


async def fill(database: ManagerDatabase) -> None:
    """Store many ended tasks of one agent, with attempts and replacements, and three open tasks of another project."""
    first = await submit(database, project="old", labels={"kind": "old"})
    ends = "(ARRAY['completed', 'failed', 'cancelled'])[1 + n % 3]"
    await multiply(database, first.task_id, ENDED, state=ends, agent_id=f"'{ECHO}'")
    await execute(
        database,
        """INSERT INTO manager.attempts (attempt_id, task_id, epoch, agent_id, sandbox_id, conversation_id, state,
            tokens, model_calls, cost_usd, created_at, ended_at, sandbox_deleted_at)
        SELECT 'att_' || task_id, task_id, 1, agent_id, 'sbx_' || task_id, 'cnv', 'lost', 7, 1, 0.5, now(), now(), now()
        FROM manager.tasks WHERE state <> 'queued'""",
    )
    await execute(
        database,
        """INSERT INTO manager.replacements (task_id, epoch, agent_id, sandbox_id, reason, ends, "then", step, created_at)
        SELECT task_id, 1, agent_id, sandbox_id, 'gone', 'lost', 'fail', 'done', now() FROM manager.attempts""",
    )
    await execute(database, "DELETE FROM manager.tasks WHERE task_id = :task_id", task_id=first.task_id)
    new = [await submit(database, project="new", labels={"kind": "new"}) for _ in range(3)]
    await submit(database, project="new", depends_on=[new[0].task_id])
    await execute(database, "ANALYZE manager.tasks, manager.attempts, manager.replacements")


async def test_task_lists_with_any_filter_read_few_rows(database: ManagerDatabase) -> None:
    wanted: list[tuple[ListTasks, int]] = [
        (ListTasks(limit=20), 20),
        (ListTasks(state="queued"), 3),
        (ListTasks(state="running"), 0),
        (ListTasks(state="failed", limit=20), 20),
        (ListTasks(project="new"), 4),
        (ListTasks(project="nowhere"), 0),
        (ListTasks(project="old", state="queued"), 0),
        (ListTasks(project="new", state="completed"), 0),
        (ListTasks(labels={"kind": "new"}), 3),
        (ListTasks(labels={"kind": "nothing"}), 0),
    ]
    for command, number in wanted:
        database.reader = reader = ExplainingReader(database.url)
        try:
            page = await TaskRequests(database).page(command)
            cursor = page.next_cursor
            if cursor is not None:
                await TaskRequests(database).page(ListTasks(state=command.state, limit=command.limit, cursor=cursor))
        finally:
            reader.close()
        assert (len(page.tasks), few(reader.touched)) == (number, {}), command


async def test_task_and_agents_are_read_without_reading_other_tasks(database: ManagerDatabase) -> None:
    database.reader = reader = ExplainingReader(database.url)
    registry = AgentRegistry(database, settings(database.url), CATALOGUE)
    try:
        await TaskRequests(database).get(GetTask(task_id="tsk_copy7"))
        await registry.get(GetAgent(agent_id=ECHO))
        await registry.page(ListAgents())
    finally:
        reader.close()
    assert few(reader.touched) == {}


Act = Callable[[Transaction], Awaitable[object]]
ACTS: Final[dict[str, Act]] = {
    "room": lambda tx: stored.room(tx, most=1_000),
    "room near the limit": lambda tx: stored.room(tx, most=5),
    "validating": stored.validating,
    "settled": stored.settled,
    "next task": lambda tx: next_task.next_task(tx, max_running=16, ageing_s=300),
    "intents": attempts.intents,
    "overdue": lambda tx: attempts.overdue(tx, opened_within_s=60),
    "unwanted": attempts.unwanted,
    "tries": lambda tx: attempts.tries(tx, "tsk_copy7"),
    "sagas": replacements.left,
    "open tasks of an agent": lambda tx: agents.open_tasks(tx, ECHO),
    "live tasks of agents": lambda tx: agents.live_tasks(tx, [ECHO]),
    "totals of an agent": lambda tx: states.counted(tx, ECHO),
    "states of agents": states.sandbox_states,
    "old tasks": lambda tx: store.ended_tasks(tx, days=1, most=500),
}


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
async def test_counts_totals_and_loops_read_few_rows(database: ManagerDatabase, plans: str) -> None:
    over: dict[str, dict[str, int]] = {}
    for name, act in ACTS.items():
        async with database.begin() as tx:
            await tx.connection.execute(text(f"SET LOCAL plan_cache_mode = {plans}"))
            before = await touched(tx)
            await act(tx)
            after = await touched(tx)
        if many := few({table: after[table] - before.get(table, 0) for table in after}):
            over[name] = many
    assert over == {}


def few(rows: dict[str, int]) -> dict[str, int]:
    """Return the task tables of which more rows were read than the limit allows."""
    return {table: number for table, number in rows.items() if table in TABLES and number > FEW}
