"""The registry of agents on a real PostgreSQL: unique agents, updates, deletion and the choice of an agent."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import pytest
from sqlalchemy import text

from muster.agent_manager.database import outbox
from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.handlers.agent_registry import AgentRegistry
from muster.agent_manager.fleet.store import agents
from muster.agent_manager.fleet.wiring import discovery
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.handlers.submission import TaskSubmission
from muster.agent_manager.tasks.store import next_task
from muster.common.agent_credentials.authority import TAKEN
from muster.common.clock import utc_now
from muster.common.contract import decode, encode
from muster.common.contracts.agent_registry import (
    DeleteAgent,
    FindAgent,
    GetAgent,
    ListAgents,
    ListCapabilities,
    RegisterAgent,
    UpdateAgent,
)
from muster.common.contracts.agents import AgentChanged, AgentView
from muster.common.contracts.packages import ListPackages
from muster.common.contracts.tasks import SubmitTask, TaskView
from muster.common.faults import Conflict, InvalidMessage, NotFound, PreconditionFailed
from muster.common.ids import new_id
from tests.support.registry import seed_agents
from tests.support.stored_tasks import settings

ECHO = agents.default_id("echo")


@dataclass
class Place:
    """The registry and the queue of a manager, without its loops."""

    database: ManagerDatabase
    registry: AgentRegistry
    submission: TaskSubmission
    catalogue: Catalogue

    async def register(self, name: str = "", **fields: object) -> AgentView:
        agent_id = new_id("agt")
        told = {"agent_id": agent_id, "name": name or agent_id, "package": "echo", **fields}
        return await self.registry.register(RegisterAgent.from_json(encode(told)))

    async def submit(self, **fields: object) -> TaskView:
        told = {"task_id": new_id("tsk"), "objective": "do it", **fields}
        return await self.submission.submit(SubmitTask(**told))  # type: ignore[arg-type]

    async def put(self, agent_id: str, **fields: object) -> None:
        """Set the state of an agent, as the loop for the lifecycle does."""
        async with self.database.begin() as tx:
            agent = await agents.lock(tx, agent_id)
            assert agent is not None
            await agents.change(tx, agent, "wished", **fields)

    async def told(self) -> list[AgentChanged]:
        letters = await outbox.oldest(self.database)
        return [decode(one.body, AgentChanged) for one in letters if one.subject.startswith("agent.")]


@pytest.fixture
async def place(manager_database_url: str) -> AsyncIterator[Place]:
    told = settings(manager_database_url, default_package="echo")
    catalogue = Catalogue()
    async with open_database(manager_database_url, now=utc_now, new_id=new_id) as database:
        await discovery(database, told, catalogue).look()
        registry = AgentRegistry(database, told, catalogue)
        # A task without model and repository needs no request to the gateway.
        unasked = cast("SandboxGatewayClient", None)
        yield Place(database, registry, TaskSubmission(database, told, catalogue, unasked), catalogue)


async def test_one_of_twenty_concurrent_registrations_of_a_name_succeeds(place: Place) -> None:
    before = len(await place.told())
    answers = await asyncio.gather(*(place.register("twin") for _ in range(20)), return_exceptions=True)
    (view,) = [answer for answer in answers if isinstance(answer, AgentView)]
    refused = [answer for answer in answers if isinstance(answer, Conflict)]
    assert len(refused) == 19
    assert {(fault.status, fault.field) for fault in refused} == {(409, "$.name")}
    assert (view.state, view.desired, view.cites, view.version) == ("stopped", "stopped", "registered", 1)
    assert [(event.kind, event.agent_id) for event in (await place.told())[before:]] == [("registered", view.agent_id)]


async def test_repeated_registration_returns_the_same_agent_and_a_different_one_is_refused(place: Place) -> None:
    agent_id = new_id("agt")
    views = await asyncio.gather(*(place.register("one", agent_id=agent_id) for _ in range(8)))
    assert {view.agent_id for view in views} == {agent_id}
    assert {view.version for view in views} == {1}
    with pytest.raises(Conflict, match="its mode is process") as refused:
        await place.register("one", agent_id=agent_id, mode="sandbox")
    assert refused.value.field == "$.agent_id"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        *(({"agent_id": taken}, "$.agent_id") for taken in sorted(TAKEN)),
        ({"agent_id": "a.>"}, "$.agent_id"),
        ({"agent_id": "*"}, "$.agent_id"),
        ({"name": " x"}, "$.name"),
        ({"name": "a\0b"}, "$.name"),
        ({"name": "x" * 65}, "$.name"),
        ({"package": "nowhere"}, "$.package"),
        ({"labels": {"": "x"}}, "$.labels"),
        ({"labels": {str(n): "x" * 250 for n in range(60)}}, "$.labels"),
        ({"config": {"a": "\0"}}, "$.config.a"),
        ({"config": {"a": "x" * (16 << 10)}}, "$.config"),
    ],
)
async def test_invalid_registration_is_refused_with_the_name_of_its_field(
    place: Place, wrong: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidMessage) as refused:
        await place.register(**wrong)  # type: ignore[arg-type]
    assert refused.value.field == field


async def test_update_needs_the_current_version_and_one_of_two_concurrent_updates_wins(place: Place) -> None:
    agent = await place.register("first", labels={"tier": "1"})
    change = [UpdateAgent(agent_id=agent.agent_id, version=1, labels={"tier": str(n)}) for n in range(2, 6)]
    answers = await asyncio.gather(*(place.registry.update(one) for one in change), return_exceptions=True)
    (won,) = [answer for answer in answers if isinstance(answer, AgentView)]
    assert won.version == 2
    assert sum(isinstance(answer, PreconditionFailed) for answer in answers) == 3

    same = await place.registry.update(UpdateAgent(agent_id=agent.agent_id, version=2, labels=won.labels))
    assert same == won  # Nothing changed, so the version stays.
    await place.register("second")
    with pytest.raises(Conflict, match="another name") as refused:
        await place.registry.update(UpdateAgent(agent_id=agent.agent_id, name="second"))
    assert refused.value.field == "$.name"
    renamed = await place.registry.update(UpdateAgent(agent_id=agent.agent_id, name="third"))
    assert (renamed.name, renamed.labels, renamed.version) == ("third", won.labels, 3)
    versions = [event.version for event in await place.told() if event.agent_id == agent.agent_id]
    assert versions == [1, 2, 3]


async def test_only_a_stopped_agent_without_tasks_can_be_deleted_and_its_counts_stay(place: Place) -> None:
    agent = await place.register("mine", mode="sandbox")
    delete = DeleteAgent(agent_id=agent.agent_id)
    await place.put(agent.agent_id, desired="running", state="idle", launch=3)
    with pytest.raises(Conflict, match="is in state idle; stop it"):
        await place.registry.delete(delete)
    task = await place.submit(agent_id=agent.agent_id)
    await place.put(agent.agent_id, desired="stopped", state="stopped")
    with pytest.raises(Conflict, match="has 1 unfinished tasks"):
        await place.registry.delete(delete)
    async with place.database.begin() as tx:
        await tx.connection.execute(text("UPDATE manager.tasks SET state = 'cancelled'"))
    with pytest.raises(PreconditionFailed, match="has version 3, not 1"):
        await place.registry.delete(DeleteAgent(agent_id=agent.agent_id, version=1))
    await place.registry.delete(delete)
    with pytest.raises(NotFound):
        await place.registry.get(GetAgent(agent_id=agent.agent_id))
    with pytest.raises(NotFound):
        await place.registry.delete(delete)
    with pytest.raises(Conflict, match="default agent of package echo"):
        await place.registry.delete(DeleteAgent(agent_id=ECHO))

    # The name is free again. Under the same id, versions and launches continue, so that no old message seems new.
    assert (await place.register("mine")).version == 1
    again = await place.register("again", agent_id=agent.agent_id, mode="sandbox")
    assert (again.version, again.launch, again.state) == (5, 3, "stopped")
    assert (await place.submit()).agent_id is None
    assert task.agent_id == agent.agent_id


async def test_pages_contain_every_matching_agent_once_newest_first(place: Place) -> None:
    await seed_agents(place.database, 250)
    seen: list[str] = []
    cursor = None
    while True:
        wanted = ListAgents(limit=17, cursor=cursor, state="idle", capability="echo", labels={"even": "true"})
        page = await place.registry.page(wanted)
        seen += [agent.agent_id for agent in page.agents]
        if (cursor := page.next_cursor) is None:
            break
        await place.register()  # An agent added meanwhile is newer and does not move the pages.
    assert seen == [f"agt_seed{n}" for n in range(1, 251) if n % 2 == 0 and n % 3]

    named = await place.registry.page(ListAgents(name_starts="seed-24", mode="sandbox", package="echo"))
    assert [agent.name for agent in named.agents] == [f"seed-{n}" for n in (24, *range(240, 250))]
    assert (await place.registry.page(ListAgents(name_starts="seed_2%"))).agents == []
    for wrong, field in ((ListAgents(limit=0), "$.limit"), (ListAgents(cursor="x"), "$.cursor")):
        with pytest.raises(InvalidMessage) as refused:
            await place.registry.page(wrong)
        assert refused.value.field == field


async def test_find_chooses_the_right_one_of_ten_thousand_agents_and_explains_the_others(place: Place) -> None:
    await seed_agents(place.database, 10_000)
    found = await place.registry.find(FindAgent(capabilities=["rare"], labels={"even": "true"}, available=True))
    assert found.agent is not None
    # Agents with a multiple of 1000 have the capability, and multiples of 3 are stopped; 10,000 is the oldest match.
    assert found.agent.agent_id == "agt_seed10000"
    assert (found.considered[0].chosen, found.considered[0].why) == (True, "fits, and is idle")
    assert len(found.considered) == 100
    assert "is not running" in {one.why for one in found.considered}
    assert any(one.why.startswith("lacks rare") for one in found.considered)

    nobody = await place.registry.find(FindAgent(capabilities=["echo"], package="openhands"))
    assert nobody.agent is None
    assert nobody.considered
    counted = {
        one.capability.name: one.agents for one in (await place.registry.capabilities(ListCapabilities())).capabilities
    }
    assert counted["rare"] == 10


async def test_stopped_agent_gets_no_task_and_another_agent_of_its_package_does(place: Place) -> None:
    await place.put(ECHO, desired="stopped", state="stopped")
    with pytest.raises(Conflict, match="no agent of package echo takes tasks now"):
        await place.submit()
    with pytest.raises(Conflict, match="is stopped and takes no tasks"):
        await place.submit(agent_id=ECHO)
    process = await place.register("a process", mode="process")
    with pytest.raises(InvalidMessage, match="is a process") as refused:
        await place.submit(agent_id=process.agent_id)
    assert refused.value.field == "$.agent_id"

    other = await place.register("other", mode="sandbox")
    await place.put(other.agent_id, desired="running", state="idle")
    waits = await place.submit(agent_id=other.agent_id)
    passes = await place.submit()
    await place.put(other.agent_id, state="stopping")
    async with place.database.begin() as tx:
        assert await next_task.next_task(tx, max_running=16, ageing_s=300) is None
    await place.put(ECHO, desired="running", state="idle")
    async with place.database.begin() as tx:
        task = await next_task.next_task(tx, max_running=16, ageing_s=300)
        assert task is not None
        assert task.task_id == passes.task_id  # The task before it waits for an agent that accepts no task.
        assert await agents.taker(tx, "echo") == ECHO
        await next_task.open_attempt(tx, task, ECHO)
    assert (await place.registry.get(GetAgent(agent_id=ECHO))).live_tasks == 1
    assert waits.state == "queued"


async def test_packages_are_listed_and_have_default_agents(place: Place) -> None:
    packages = (await place.registry.packages(ListPackages())).packages
    assert {"echo", "openhands"} <= {view.name for view in packages if view.usable}
    echo = await place.registry.get(GetAgent(agent_id=ECHO))
    assert (echo.name, echo.is_default, echo.mode, echo.desired, echo.state) == (
        "echo",
        True,
        "sandbox",
        "running",
        "idle",
    )
