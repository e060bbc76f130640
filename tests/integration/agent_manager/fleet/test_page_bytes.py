"""A page of a list fits into one reply, for any texts of workers and clients. PostgreSQL is real."""

from collections.abc import AsyncIterator

import pytest

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.handlers.agent_registry import AgentRegistry
from muster.agent_manager.tasks.handlers.tasks import TaskRequests
from muster.common.bus.service import MAX_REPLY_BYTES
from muster.common.contract import encode
from muster.common.contracts.agent_registry import ListAgents
from muster.common.contracts.limits import LARGEST_PAGE, SHORT_TEXT
from muster.common.contracts.tasks import CancelTask, GetTask, ListTasks
from muster.common.faults import InvalidMessage
from tests.support.registry import seed_agents
from tests.support.stored_tasks import CATALOGUE, execute, manager_database, multiply, settings, submit


@pytest.fixture
async def database(manager_database_url: str) -> AsyncIterator[ManagerDatabase]:
    async with manager_database(manager_database_url) as database:
        yield database


async def all_pages(tasks: TaskRequests) -> list[list[str]]:
    """Return the ids of each page, and assert that every page fits into a reply."""
    pages, cursor = list[list[str]](), None
    while True:
        page = await tasks.page(ListTasks(limit=LARGEST_PAGE, cursor=cursor))
        assert len(encode(page)) <= MAX_REPLY_BYTES
        pages.append([task.task_id for task in page.tasks])
        if (cursor := page.next_cursor) is None:
            return pages


async def test_large_summaries_are_shortened_in_a_list_and_complete_in_a_single_task(
    database: ManagerDatabase,
) -> None:
    tasks, long = TaskRequests(database), "x" * 900_000
    ids = [(await submit(database)).task_id for _ in range(5)]
    await execute(database, "UPDATE manager.tasks SET summary = :long, error = :long, validation = :long", long=long)

    page = await tasks.page(ListTasks())

    assert [task.task_id for task in page.tasks] == ids[::-1]
    assert page.next_cursor is None
    assert len(encode(page)) <= MAX_REPLY_BYTES
    for task in page.tasks:
        for text in (task.summary, task.error, task.validation):
            assert text == "x" * (SHORT_TEXT - 1) + "…"
    assert (await tasks.get(GetTask(task_id=ids[0]))).summary == long


async def test_page_ends_before_it_exceeds_a_reply_and_its_cursor_continues(database: ManagerDatabase) -> None:
    metadata = {"notes": "é" * 30_000}  # A client may store this with each task, and a list shows it in full.
    task = await submit(database, metadata=metadata)
    await multiply(database, task.task_id, 74)

    pages = await all_pages(TaskRequests(database))

    copies = [f"tsk_copy{number}" for number in range(1, 75)]
    assert [task_id for page in pages for task_id in page] == [task.task_id, *copies]
    assert len(pages) == 2


async def test_task_with_many_long_attempt_reasons_can_be_read(database: ManagerDatabase) -> None:
    tasks, task = TaskRequests(database), await submit(database)
    await execute(
        database,
        """INSERT INTO manager.attempts (attempt_id, task_id, epoch, agent_id, sandbox_id, conversation_id, state,
            reason, tokens, model_calls, cost_usd, created_at)
        SELECT 'att_' || n, :task_id, n, 'agt', 'sbx_' || n, 'cnv', 'lost', repeat('x', 900000), 0, 0, 0, now()
        FROM generate_series(1, 6) n""",
        task_id=task.task_id,
    )

    one, (listed,) = await tasks.get(GetTask(task_id=task.task_id)), (await tasks.page(ListTasks())).tasks

    assert len(encode(one)) <= MAX_REPLY_BYTES
    assert [len(str(attempt.reason)) for attempt in listed.attempts] == [SHORT_TEXT] * 6


async def test_cancel_reason_that_exceeds_an_event_is_refused(database: ManagerDatabase) -> None:
    task = await submit(database)
    with pytest.raises(InvalidMessage) as refused:
        await TaskRequests(database).cancel(CancelTask(task_id=task.task_id, reason="x" * 2_000_000))
    assert refused.value.field == "$.reason"


async def test_agents_with_large_reasons_fit_into_their_pages(database: ManagerDatabase) -> None:
    await seed_agents(database, 60)
    await execute(database, "UPDATE manager.agents SET reason = :long", long="x" * 100_000)
    registry = AgentRegistry(database, settings(database.url), CATALOGUE)
    seen, cursor = list[str](), None
    while True:
        page = await registry.page(ListAgents(limit=LARGEST_PAGE, cursor=cursor))
        assert len(encode(page)) <= MAX_REPLY_BYTES
        seen += [agent.agent_id for agent in page.agents]
        if (cursor := page.next_cursor) is None:
            break
    assert len(seen) == len(set(seen)) >= 60
