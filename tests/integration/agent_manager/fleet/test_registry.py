"""The registry on a real PostgreSQL: who is there, once, and who is found."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import pytest
from sqlalchemy import text

from muster.agent_manager.database import outbox
from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.handlers.registry import AgentRegistry
from muster.agent_manager.fleet.store import agents
from muster.agent_manager.fleet.wiring import discovery
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.handlers.submission import TaskSubmission
from muster.agent_manager.tasks.store import queue
from muster.common.clock import utc_now
from muster.common.contract import decode, encode
from muster.common.contracts.agent_registry import (
    DeleteAgent,
    FindAgent,
    GetAgent,
    GetAgents,
    ListAgents,
    ListCapabilities,
    RegisterAgent,
    UpdateAgent,
)
from muster.common.contracts.agents import AgentChanged, AgentView
from muster.common.contracts.packages import ListPackages
from muster.common.contracts.tasks import SubmitTask, TaskView
from muster.common.faults import Conflict, InvalidMessage, NotFound, PreconditionFailed
from muster.common.identity.authority import TAKEN
from muster.common.ids import new_id
from tests.support.registry import seed_agents
from tests.support.stored_tasks import settings

ECHO = agents.default_id("echo")


@dataclass
class Place:
    """A manager's registry and queue, without its loops."""

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
        """As the lifecycle would."""
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
        unasked = cast("SandboxGatewayClient", None)  # about no model and no repository there is nothing to ask
        yield Place(database, registry, TaskSubmission(database, told, catalogue, unasked), catalogue)


async def test_of_twenty_registrations_at_once_under_one_name_one_is_left(place: Place) -> None:
    before = len(await place.told())
    answers = await asyncio.gather(*(place.register("twin") for _ in range(20)), return_exceptions=True)
    (view,) = [answer for answer in answers if isinstance(answer, AgentView)]
    refused = [answer for answer in answers if isinstance(answer, Conflict)]
    assert len(refused) == 19
    assert {(fault.status, fault.field) for fault in refused} == {(409, "$.name")}
    assert (view.state, view.desired, view.cites, view.version) == ("stopped", "stopped", "registered", 1)
    assert [(event.kind, event.agent_id) for event in (await place.told())[before:]] == [("registered", view.agent_id)]


async def test_the_same_registration_again_is_the_same_agent_and_another_under_its_id_is_refused(place: Place) -> None:
    agent_id = new_id("agt")
    views = await asyncio.gather(*(place.register("one", agent_id=agent_id) for _ in range(8)))
    assert {view.agent_id for view in views} == {agent_id}
    assert {view.version for view in views} == {1}
    with pytest.raises(Conflict, match="with mode process") as refused:
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
async def test_what_may_not_be_registered_names_its_field(place: Place, wrong: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        await place.register(**wrong)  # type: ignore[arg-type]
    assert refused.value.field == field


async def test_a_change_needs_the_version_it_was_made_from_and_one_of_two_wins(place: Place) -> None:
    agent = await place.register("first", labels={"tier": "1"})
    change = [UpdateAgent(agent_id=agent.agent_id, version=1, labels={"tier": str(n)}) for n in range(2, 6)]
    answers = await asyncio.gather(*(place.registry.update(one) for one in change), return_exceptions=True)
    (won,) = [answer for answer in answers if isinstance(answer, AgentView)]
    assert won.version == 2
    assert sum(isinstance(answer, PreconditionFailed) for answer in answers) == 3

    same = await place.registry.update(UpdateAgent(agent_id=agent.agent_id, version=2, labels=won.labels))
    assert same == won  # nothing changed, so there is no new version
    await place.register("second")
    with pytest.raises(Conflict, match="another name") as refused:
        await place.registry.update(UpdateAgent(agent_id=agent.agent_id, name="second"))
    assert refused.value.field == "$.name"
    renamed = await place.registry.update(UpdateAgent(agent_id=agent.agent_id, name="third"))
    assert (renamed.name, renamed.labels, renamed.version) == ("third", won.labels, 3)
    versions = [event.version for event in await place.told() if event.agent_id == agent.agent_id]
    assert versions == [1, 2, 3]


async def test_only_what_is_stopped_and_has_nothing_to_do_is_deleted_and_its_count_goes_on(place: Place) -> None:
    agent = await place.register("mine", mode="sandbox")
    delete = DeleteAgent(agent_id=agent.agent_id)
    await place.put(agent.agent_id, desired="running", state="idle", launch=3)
    with pytest.raises(Conflict, match="is idle; stop it"):
        await place.registry.delete(delete)
    task = await place.submit(agent_id=agent.agent_id)
    await place.put(agent.agent_id, desired="stopped", state="stopped")
    with pytest.raises(Conflict, match="has 1 tasks that have not ended"):
        await place.registry.delete(delete)
    async with place.database.begin() as tx:
        await tx.connection.execute(text("UPDATE manager.tasks SET state = 'cancelled'"))
    with pytest.raises(PreconditionFailed, match="is at version 3, not 1"):
        await place.registry.delete(DeleteAgent(agent_id=agent.agent_id, version=1))
    await place.registry.delete(delete)
    with pytest.raises(NotFound):
        await place.registry.get(GetAgent(agent_id=agent.agent_id))
    with pytest.raises(NotFound):
        await place.registry.delete(delete)
    with pytest.raises(Conflict, match="default agent of package echo"):
        await place.registry.delete(DeleteAgent(agent_id=ECHO))

    # Its name is free; under its id, versions and launches go on, so nothing old is taken for new.
    assert (await place.register("mine")).version == 1
    again = await place.register("again", agent_id=agent.agent_id, mode="sandbox")
    assert (again.version, again.launch, again.state) == (5, 3, "stopped")
    assert (await place.submit()).agent_id is None
    assert task.agent_id == agent.agent_id


async def test_pages_hold_every_agent_that_matches_once_newest_first(place: Place) -> None:
    await seed_agents(place.database, 250)
    seen: list[str] = []
    cursor = None
    while True:
        wanted = ListAgents(limit=17, cursor=cursor, state="idle", capability="echo", labels={"even": "true"})
        page = await place.registry.page(wanted)
        seen += [agent.agent_id for agent in page.agents]
        if (cursor := page.next_cursor) is None:
            break
        await place.register()  # what comes meanwhile is newer, and moves nothing
    assert seen == [f"agt_seed{n}" for n in range(1, 251) if n % 2 == 0 and n % 3]

    named = await place.registry.page(ListAgents(name_starts="seed-24", mode="sandbox", package="echo"))
    assert [agent.name for agent in named.agents] == [f"seed-{n}" for n in (24, *range(240, 250))]
    assert (await place.registry.page(ListAgents(name_starts="seed_2%"))).agents == []
    for wrong, field in ((ListAgents(limit=0), "$.limit"), (ListAgents(cursor="x"), "$.cursor")):
        with pytest.raises(InvalidMessage) as refused:
            await place.registry.page(wrong)
        assert refused.value.field == field


async def test_several_at_once_are_each_as_one_alone_and_what_is_gone_is_left_out(place: Place) -> None:
    ids = [(await place.register(name=f"one-of-{number}")).agent_id for number in range(3)]
    gone = await place.register(name="gone")
    await place.registry.delete(DeleteAgent(agent_id=gone.agent_id))

    found = (await place.registry.several(GetAgents(agent_ids=[*ids, gone.agent_id, "nobody"]))).agents

    assert {view.agent_id: view for view in found} == {
        one: await place.registry.get(GetAgent(agent_id=one)) for one in ids
    }
    with pytest.raises(InvalidMessage, match="at most 100"):
        await place.registry.several(GetAgents(agent_ids=ids * 34))


async def test_among_ten_thousand_the_right_one_is_found_and_the_others_are_told_why_not(place: Place) -> None:
    await seed_agents(place.database, 10_000)
    found = await place.registry.find(FindAgent(capabilities=["rare"], labels={"even": "true"}, available=True))
    assert found.agent is not None
    # The oldest of those with a number of thousands that is not one of threes: 10,000 itself is the oldest.
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


async def test_a_stopped_agent_gets_no_task_and_another_of_its_package_takes_over(place: Place) -> None:
    await place.put(ECHO, desired="stopped", state="stopped")
    with pytest.raises(Conflict, match="every agent of echo that runs tasks is stopped"):
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
        assert await queue.next_task(tx, max_running=16, ageing_s=300) is None
    await place.put(ECHO, desired="running", state="idle")
    async with place.database.begin() as tx:
        task = await queue.next_task(tx, max_running=16, ageing_s=300)
        assert task is not None
        assert task.task_id == passes.task_id  # the one before it waits for an agent that takes none
        assert await agents.taker(tx, "echo") == ECHO
        await queue.open_attempt(tx, task, ECHO)
    assert (await place.registry.get(GetAgent(agent_id=ECHO))).live_tasks == 1
    assert waits.state == "queued"


async def test_packages_are_listed_and_their_default_agents_are_there(place: Place) -> None:
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
