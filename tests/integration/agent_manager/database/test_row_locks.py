"""Loops that read many agents or sandboxes lock the rows in one order, or lock none."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import text

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.store import agents, states
from muster.agent_manager.fleet.store.states import StoredHeartbeat
from muster.agent_manager.service import answering
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.reconcilers import sandbox_log_consumer
from muster.agent_manager.tasks.reconcilers.sandbox_cleanup import StraySandboxReaper
from muster.agent_manager.tasks.store import attempts, next_task
from muster.agent_manager.tasks.store.transitions import lock_task
from muster.common.bus.message_store import Stored
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.sandbox_log import FrameKind, log_subject
from muster.common.ids import new_id
from tests.support.eventually import eventually
from tests.support.managed import Place, open_place
from tests.support.sandbox_script import Script

FIRST, LAST = "agt_a", "agt_z"


@pytest.fixture
async def place(nats_url: str, manager_database_url: str) -> AsyncIterator[Place]:
    async with (
        open_place(nats_url, manager_database_url) as place,
        answering(place.bus, place.database, place.settings, place.catalogue),
    ):
        yield place


async def add_agents(database: ManagerDatabase, *agent_ids: str) -> None:
    async with database.begin() as tx:
        for agent_id in agent_ids:
            await tx.connection.execute(
                text(
                    "INSERT INTO manager.agents (agent_id, package, is_default, created_at, name, owner, state, desired)"
                    " VALUES (:agent_id, 'echo', false, now(), :agent_id, 'mgr_one', 'running', 'running')"
                ),
                {"agent_id": agent_id},
            )


async def is_waiting(database: ManagerDatabase) -> bool:
    async with database.reading() as tx:
        query = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return (await tx.connection.execute(query)).scalar_one() > 0


async def test_beats_of_many_agents_lock_their_rows_in_order_of_ids(place: Place) -> None:
    await add_agents(place.database, LAST, FIRST)
    beats = [StoredHeartbeat(agent_id=agent_id, at=utc_now()) for agent_id in (LAST, FIRST)]

    async def store() -> None:
        async with place.database.begin() as tx:
            await states.seen(tx, "mgr_one", beats)

    async with asyncio.TaskGroup() as tasks, place.database.begin() as tx:
        await agents.lock(tx, FIRST)
        tasks.create_task(store())
        await eventually(lambda: is_waiting(place.database))
        query = "SELECT agent_id FROM manager.agents WHERE agent_id = :agent_id FOR UPDATE NOWAIT"
        held = (await tx.connection.execute(text(query), {"agent_id": LAST})).scalar_one()

    async with place.database.reading() as tx:
        stored = [await agents.read(tx, agent_id) for agent_id in (FIRST, LAST)]
    assert held == LAST
    assert [one and one.last_seen for one in stored] == [beats[1].at, beats[0].at]


async def attempted(place: Place) -> CreateSandbox:
    """Store an attempt; return its sandbox as the gateway lists it."""
    task = await place.submit()
    async with place.database.begin() as tx:
        chosen = await next_task.next_task(tx, max_running=99, ageing_s=60)
        assert chosen is not None
        attempt = await next_task.open_attempt(tx, chosen, agents.default_id("echo"))
    return sandbox(attempt.sandbox_id, task.task_id)


def sandbox(sandbox_id: str, task_id: str) -> CreateSandbox:
    return CreateSandbox(
        sandbox_id=sandbox_id,
        task_id=task_id,
        agent_id=agents.default_id("echo"),
        epoch=1,
        conversation_id="cnv_one",
        package="echo",
        model="none",
        objective="do it",
        timeout_s=60,
    )


async def note_deleted(tx: Transaction, create: CreateSandbox) -> None:
    attempt = await attempts.of_epoch(tx, create.task_id, 1)
    assert attempt is not None
    await attempts.note(tx, attempt, sandbox_deleted_at=tx.now - timedelta(seconds=1))


async def test_reaper_deletes_only_unowned_sandboxes_and_waits_for_no_locked_task(place: Place) -> None:
    live, deleted = await attempted(place), await attempted(place)
    never, foreign = sandbox(new_id("sbx"), live.task_id), sandbox(new_id("sbx"), "tsk_foreign")
    async with place.database.begin() as tx:
        await note_deleted(tx, deleted)
    place.gateway.created = {one.sandbox_id: one for one in (live, deleted, never, foreign)}
    for one in (deleted, never):  # The double closes the logs when it deletes the sandboxes.
        await place.gateway.append(one, FrameKind.OPENED, None)

    async with place.database.begin() as tx:
        await lock_task(tx, live.task_id)
        await StraySandboxReaper(place.database, SandboxGatewayClient(place.bus), every_s=60).look()

    assert place.gateway.deleted == {deleted.sandbox_id, never.sandbox_id}


async def test_state_of_one_agent_is_read_without_the_states_of_others(place: Place) -> None:
    await add_agents(place.database, FIRST, LAST)
    async with place.database.begin() as tx:
        await tx.connection.execute(text("UPDATE manager.agents SET mode = 'sandbox' WHERE owner = 'mgr_one'"))
        every, one = await states.sandbox_states(tx), await states.sandbox_states(tx, FIRST)

    assert sorted(every) == [(FIRST, "idle"), (LAST, "idle")]
    assert one == [(FIRST, "idle")]


async def test_consumer_reads_an_evicted_sandbox_from_the_database_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_log_consumer, "MOST_REMEMBERED", 1)
    known, create = sandbox_log_consumer.SandboxLogConsumer(place.database, place.settings), await attempted(place)

    async def state_after_events(*sandbox_ids: str) -> str:
        async with place.database.begin() as tx:
            await tx.connection.execute(text("UPDATE manager.attempts SET state = 'creating'"))
        for sandbox_id in sandbox_ids:
            frame = Script(sandbox_id).events(("MessageEvent", "user", {})).frames[-1]
            await known.take(Stored(log_subject(sandbox_id), 1, utc_now(), encode(frame)))
        async with place.database.reading() as tx:
            return (await tx.connection.execute(text("SELECT state FROM manager.attempts"))).scalar_one()

    first = await state_after_events(create.sandbox_id)
    remembered = await state_after_events(create.sandbox_id)
    forgotten = await state_after_events("sbx_other", create.sandbox_id)

    assert (first, remembered, forgotten) == ("running", "creating", "running")
