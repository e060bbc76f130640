"""Packages appear, change, break and disappear while the manager runs, without a restart."""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.handlers.agent_registry import AgentRegistry
from muster.agent_manager.fleet.reconcilers.discovery import Discovery
from muster.agent_manager.fleet.store import agents
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.agent_registry import FindAgent, GetAgent, RegisterAgent, UpdateAgent
from muster.common.contracts.packages import Manifest
from muster.common.faults import InvalidMessage
from muster.common.ids import new_id
from tests.support.eventually import eventually
from tests.support.registry import write_package
from tests.support.stored_tasks import settings

CAPABLE = '[[capabilities]]\nname = "{}"\n'


@pytest.fixture
async def database(manager_database_url: str) -> AsyncIterator[ManagerDatabase]:
    async with open_database(manager_database_url, now=utc_now, new_id=new_id) as database:
        yield database


@asynccontextmanager
async def discovering(discovery: Discovery) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(discovery.run())
        yield
        running.cancel()


async def stored(database: ManagerDatabase, name: str) -> AgentRecord | None:
    async with database.reading() as tx:
        return await agents.named(tx, name)


async def test_change_in_a_package_folder_is_detected_at_once(database: ManagerDatabase, tmp_path: Path) -> None:
    write_package(tmp_path, "kept")
    for skipped in ("__pycache__", "_template", "test", ".hidden"):
        write_package(tmp_path, skipped, called="skipped")
    catalogue = Catalogue()
    # The interval is so long that only a file event can trigger the discovery.
    async with discovering(Discovery(database, catalogue, roots=[tmp_path], allowed=(), every_s=3600)):
        await eventually(lambda: [view.name for view in catalogue.packages] == ["kept"])

        folder = write_package(tmp_path, "fresh", CAPABLE.format("paint"))
        await eventually(lambda: catalogue.manifest("fresh"))
        digest = catalogue.packages[0].digest
        (folder / "more.py").write_text("code")
        await eventually(lambda: catalogue.packages[0].digest != digest)

        (folder / "agent.toml").write_text("name = ")
        await eventually(lambda: not catalogue.manifest("fresh"))
        assert "agent.toml is not TOML" in catalogue.why_not("fresh")
        assert catalogue.manifest("kept")

        write_package(tmp_path, "second", called="kept")
        await eventually(lambda: len(catalogue.packages) == 3)
        assert "has the name kept too" in str(catalogue.packages[2].reason)

        shutil.rmtree(folder)
        await eventually(lambda: len(catalogue.packages) == 2)
        assert catalogue.why_not("fresh") == "there is no package 'fresh'; there are: kept"


async def test_unusable_package_is_listed_with_its_reason_and_affects_no_other(
    database: ManagerDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbles(found: Manifest) -> str | None:
        if found.name == "odd":
            raise MemoryError("so big")
        return None

    monkeypatch.setattr("muster.agent_manager.fleet.reconcilers.discovery.unsound", stumbles)
    write_package(tmp_path, "kept")
    os.mkfifo(write_package(tmp_path, "odd") / "pipe")
    latin = write_package(tmp_path, "latin")
    latin.rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    catalogue = Catalogue()
    await Discovery(database, catalogue, roots=[tmp_path], allowed=(), every_s=3600).look()
    assert [(view.name, view.usable, view.reason) for view in catalogue.packages] == [
        ("caf?", False, "the folder's path contains bytes that are not text; rename it"),
        ("kept", True, None),
        ("odd", False, "cannot be read: MemoryError: so big"),
    ]
    assert encode(list(catalogue.packages))


async def test_agents_follow_changes_of_their_package_and_stay_after_its_removal(
    database: ManagerDatabase, tmp_path: Path
) -> None:
    catalogue = Catalogue()
    discovery = Discovery(database, catalogue, roots=[tmp_path], allowed=(), every_s=3600)
    registry = AgentRegistry(database, settings(database.url), catalogue)
    needs_tone = 'config = {type = "object", required = ["tone"]}\n'
    folder = write_package(tmp_path, "painter", CAPABLE.format("paint") + needs_tone)
    await discovery.look()
    mine = RegisterAgent(agent_id=new_id("agt"), name="mine", package="painter", mode="process", config={"tone": 1})
    await registry.register(mine)
    with pytest.raises(InvalidMessage, match="'tone' is a required property") as refused:
        await registry.update(UpdateAgent(agent_id=mine.agent_id, config={}))
    assert refused.value.field == "$.config"

    write_package(tmp_path, "painter", CAPABLE.format("draw"), version="0.2.0")
    await asyncio.gather(
        *(Discovery(database, Catalogue(), roots=[tmp_path], allowed=(), every_s=1).look() for _ in "ab")
    )
    await discovery.look()
    for name in ("painter", "mine"):
        agent = await stored(database, name)
        assert agent is not None
        assert (agent.agent_version, agent.capabilities, agent.version) == ("0.2.0", ["draw"], 2)

    await discovery.look()
    assert (await registry.get(GetAgent(agent_id=mine.agent_id))).version == 2, "nothing is left to follow"

    shutil.rmtree(folder)
    await discovery.look()
    assert await stored(database, "mine")
    choice = await registry.find(FindAgent(capabilities=["draw"]))
    assert choice.agent is None
    assert {one.why for one in choice.considered} == {"there is no package 'painter'; there are: none"}


async def test_folders_added_later_are_watched_and_the_allow_list_is_applied(
    database: ManagerDatabase, tmp_path: Path
) -> None:
    catalogue = Catalogue()
    later = tmp_path / "later"
    async with discovering(Discovery(database, catalogue, roots=[later], allowed=("one",), every_s=0.2)):
        write_package(later, "one")
        write_package(later, "two")
        await eventually(lambda: len(catalogue.packages) == 2)
        assert [view.usable for view in catalogue.packages] == [True, False]
        assert "MUSTER_PACKAGES" in str(catalogue.packages[1].reason)
    assert await stored(database, "one")
    assert await stored(database, "two") is None


async def test_agent_keeps_its_own_capabilities_in_addition_to_those_of_its_package(
    database: ManagerDatabase, tmp_path: Path
) -> None:
    catalogue = Catalogue()
    discovery = Discovery(database, catalogue, roots=[tmp_path], allowed=(), every_s=3600)
    registry = AgentRegistry(database, settings(database.url), catalogue)
    write_package(tmp_path, "painter", CAPABLE.format("paint"))
    await discovery.look()
    mine = RegisterAgent(
        agent_id=new_id("agt"), name="mine", package="painter", capabilities=["review", "paint"], phase_id="P 1"
    )
    view = await registry.register(mine)
    assert (view.capabilities, view.phase_id) == (["paint", "review"], "P 1")
    assert (await registry.find(FindAgent(capabilities=["review"]))).agent == view

    write_package(tmp_path, "painter", CAPABLE.format("draw"), version="0.2.0")
    await discovery.look()
    await discovery.look()
    followed = await registry.get(GetAgent(agent_id=mine.agent_id))
    assert (followed.capabilities, followed.version) == (["draw", "review", "paint"], 2)

    changed = await registry.update(UpdateAgent(agent_id=mine.agent_id, capabilities=["test"], phase_id="P 2"))
    assert (changed.capabilities, changed.phase_id, changed.version) == (["draw", "test"], "P 2", 3)
    await discovery.look()
    assert await registry.get(GetAgent(agent_id=mine.agent_id)) == changed
