"""Attempts are assigned to the agent that a task names, or to a capable agent."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.database.schema import migrate
from muster.agent_manager.fleet.store import agents
from muster.agent_manager.service import answering
from muster.agent_manager.tasks.reconcilers.dispatcher import Dispatcher
from muster.agent_manager.tasks.store import attempts
from muster.agent_manager.tasks.store.transitions import change_task, lock_task
from muster.common.clock import utc_now
from muster.common.contracts.agent_lifecycle import StartAgent, StopAgent
from muster.common.contracts.agent_registry import DeleteAgent, RegisterAgent
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.tasks import TaskView
from muster.common.faults import Conflict, InvalidMessage
from muster.common.ids import new_id
from tests.support.managed import Place, open_place

ECHO = agents.default_id("echo")


@pytest.fixture
async def place(nats_url: str, manager_database_url: str) -> AsyncIterator[Place]:
    async with (
        open_place(nats_url, manager_database_url) as place,
        answering(place.bus, place.database, place.settings, place.catalogue),
    ):
        yield place


async def register(place: Place) -> str:
    agent_id = new_id("agt")
    await place.bus.request(RegisterAgent(agent_id=agent_id, name=agent_id, package="echo", mode="sandbox"))
    await place.bus.request(StartAgent(agent_id=agent_id, command_id=new_id("req")))
    return agent_id


async def stop(place: Place, agent_id: str) -> None:
    await place.bus.request(StopAgent(agent_id=agent_id, command_id=new_id("req")))


async def dispatched(place: Place) -> None:
    """Open an attempt at every dispatchable task, without a call of the gateway."""
    await Dispatcher(place.database, None, place.settings).find()  # type: ignore[arg-type]


async def attempt_lost(place: Place, task_id: str) -> None:
    """End the live attempt of a task, which queues the task again."""
    async with place.database.begin() as tx:
        task = await lock_task(tx, task_id)
        assert task is not None
        attempt = await attempts.of_epoch(tx, task_id, task.epoch)
        assert attempt is not None
        await attempts.step(tx, attempt, "lost")
        await change_task(tx, await change_task(tx, task, "retrying"), "queued")


async def agents_of(place: Place, task: TaskView) -> list[str]:
    """Return the agents of a task's attempts, oldest first."""
    async with place.database.begin() as tx:
        query = text("SELECT agent_id FROM manager.attempts WHERE task_id = :task_id ORDER BY epoch")
        return list((await tx.connection.execute(query, {"task_id": task.task_id})).scalars())


async def test_retry_of_a_task_that_names_only_a_package_goes_to_another_agent(place: Place) -> None:
    task = await place.submit()
    await dispatched(place)
    await attempt_lost(place, task.task_id)
    await stop(place, ECHO)
    other = await register(place)

    await dispatched(place)

    assert await agents_of(place, task) == [ECHO, other]
    view = await place.get(task.task_id)
    assert (view.agent_id, view.wanted_agent_id) == (other, None)


async def test_retry_of_a_task_that_names_an_agent_waits_for_that_agent(place: Place) -> None:
    named = await register(place)
    task = await place.submit(agent_id=named)
    await dispatched(place)
    await attempt_lost(place, task.task_id)
    await stop(place, named)
    await dispatched(place)
    waiting = await agents_of(place, task)
    await place.bus.request(StartAgent(agent_id=named, command_id=new_id("req")))

    await dispatched(place)

    assert (waiting, task.wanted_agent_id) == ([named], named)
    assert await agents_of(place, task) == [named, named]


async def test_agent_can_be_deleted_when_any_agent_may_retry_its_task_but_not_while_a_task_names_it(
    place: Place,
) -> None:
    free, named = await register(place), await register(place)
    await stop(place, ECHO)
    await stop(place, named)
    task = await place.submit()
    await dispatched(place)
    assert await agents_of(place, task) == [free]
    await attempt_lost(place, task.task_id)
    await stop(place, free)
    await place.bus.request(StartAgent(agent_id=named, command_id=new_id("req")))
    await place.submit(agent_id=named)
    await stop(place, named)

    await place.bus.request(DeleteAgent(agent_id=free))
    with pytest.raises(Conflict, match="1 unfinished tasks"):
        await place.bus.request(DeleteAgent(agent_id=named))


async def test_task_whose_agent_is_deleted_while_it_is_checked_is_refused(place: Place) -> None:
    named = await register(place)

    async def deleted(verb: str, _: str) -> None:
        if verb == "check":
            await stop(place, named)
            await place.bus.request(DeleteAgent(agent_id=named))

    place.gateway.on_call = deleted
    with pytest.raises(InvalidMessage, match=f"no agent {named}") as refused:
        await place.submit(agent_id=named, repo=Repo(url="https://example.org/x"))

    assert refused.value.field == "$.agent_id"


async def column(database: ManagerDatabase, name: str) -> dict[str, str | None]:
    async with database.begin() as tx:
        rows = await tx.connection.execute(text(f"SELECT task_id, {name} FROM manager.tasks"))
        return {row[0]: row[1] for row in rows}


async def test_named_agents_survive_upgrade_and_downgrade(database_url: str) -> None:
    await migrate(database_url, "0004")
    rows = [
        ("named", "agt_mine", "queued", 0),
        ("retried", "agt_mine", "queued", 1),
        ("unnamed", ECHO, "queued", 1),
        ("ended", "agt_mine", "completed", 1),
    ]
    async with open_database(database_url, now=utc_now, new_id=new_id) as database:
        async with database.begin() as tx:
            for agent_id, is_default in ((ECHO, True), ("agt_mine", False)):
                await tx.connection.execute(
                    text(
                        "INSERT INTO manager.agents (agent_id, package, is_default, created_at, name)"
                        " VALUES (:agent_id, 'echo', :is_default, now(), :agent_id)"
                    ),
                    {"agent_id": agent_id, "is_default": is_default},
                )
            for task_id, agent_id, state, epoch in rows:
                await tx.connection.execute(
                    text(
                        "INSERT INTO manager.tasks (task_id, agent_id, package, model, objective, paths, timeout_s,"
                        " priority, project, labels, depends_on, metadata, state, version, epoch, created_at,"
                        " updated_at) VALUES (:task_id, :agent_id, 'echo', 'none', 'do it', '[]', 60, 'NORMAL',"
                        " 'default', '{}', '{}', '{}', :state, 1, :epoch, now(), now())"
                    ),
                    {"task_id": task_id, "agent_id": agent_id, "state": state, "epoch": epoch},
                )
        await migrate(database_url)
        up = await column(database, "wanted_agent_id")
        await migrate(database_url, "0004")
        down = await column(database, "agent_id")

    assert up == {"named": "agt_mine", "retried": "agt_mine", "unnamed": None, "ended": None}
    assert down == {"named": "agt_mine", "retried": "agt_mine", "unnamed": None, "ended": "agt_mine"}
