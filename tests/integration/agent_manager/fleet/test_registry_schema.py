"""Revisions 0002 and 0003 keep the existing rows and add names and desired states."""

import msgspec
import pytest
from sqlalchemy import text

from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.database.schema import migrate
from muster.agent_manager.fleet.store import agents
from muster.common.clock import utc_now
from muster.common.ids import new_id
from muster.common.postgres.history import HEAD, ONE_BACK

ECHO = agents.default_id("echo")


async def put(database: ManagerDatabase, statement: str, **values: object) -> None:
    async with database.begin() as tx:
        await tx.connection.execute(text(statement), values)


async def column(database: ManagerDatabase, query: str) -> list[object]:
    async with database.begin() as tx:
        return list((await tx.connection.execute(text(query))).scalars())


async def back(url: str, *, to: str) -> None:
    """Downgrade the schema one revision at a time."""
    async with open_database(url, now=utc_now, new_id=new_id) as database:
        while await column(database, "SELECT version_num FROM manager.alembic_version") != [to]:
            await migrate(url, ONE_BACK)


@pytest.fixture
async def before(database_url: str) -> str:
    """The URL of a database at revision 0001 with rows in it."""
    await migrate(database_url, "0001")
    async with open_database(database_url, now=utc_now, new_id=new_id) as database:
        await put(
            database,
            "INSERT INTO manager.agents VALUES (:agent_id, 'echo', true, now()), ('agt_mine', 'echo', false, now())",
            agent_id=ECHO,
        )
        await put(
            database,
            "INSERT INTO manager.outbox (task_id, version, event_id, subject, body, created_at)"
            " VALUES ('tsk_1', 1, 'evt_1', 'task.tsk_1.event.queued', '{}', now())",
        )
    return database_url


async def test_stored_rows_survive_upgrade_downgrade_and_upgrade(before: str) -> None:
    await migrate(before, HEAD)
    async with open_database(before, now=utc_now, new_id=new_id) as database:
        async with database.begin() as tx:
            default, other = await agents.read(tx, ECHO), await agents.read(tx, "agt_mine")
            assert default is not None
            assert other is not None
            assert (default.name, default.mode, default.desired, default.state) == (
                "echo",
                "sandbox",
                "running",
                "idle",
            )
            assert (other.name, other.desired, other.state, other.cites) == (
                "agt_mine",
                "stopped",
                "stopped",
                "registered",
            )
            await agents.change(
                tx, default, "updated", spec=msgspec.structs.replace(default.spec, labels={"tier": "gold"})
            )
        assert await column(database, "SELECT entity_id FROM manager.outbox ORDER BY id") == ["tsk_1", ECHO]

        await back(before, to="0001")
        assert await column(database, "SELECT agent_id FROM manager.agents ORDER BY is_default") == ["agt_mine", ECHO]
        # The previous release cannot publish agent events.
        assert await column(database, "SELECT task_id FROM manager.outbox") == ["tsk_1"]

        await migrate(before, HEAD)
        assert await column(database, "SELECT name FROM manager.agents ORDER BY name") == ["agt_mine", "echo"]


async def test_agent_deleted_before_cleanups_were_stored_is_cleaned_up(before: str) -> None:
    await migrate(before, "0002")
    async with open_database(before, now=utc_now, new_id=new_id) as database:
        await put(
            database, "UPDATE manager.agents SET mode = 'process', deleted_at = now() WHERE agent_id = 'agt_mine'"
        )
        await migrate(before, HEAD)
        async with database.begin() as tx:
            gone, there = await agents.stored(tx, "agt_mine"), await agents.stored(tx, ECHO)
            assert gone is not None
            assert there is not None
            assert (gone.uncleaned, gone.life, there.uncleaned, there.life) == (True, 1, False, 1)

        await back(before, to="0002")
        await migrate(before, HEAD)


async def test_agent_changed_by_the_previous_release_is_read_correctly(before: str) -> None:
    await migrate(before, HEAD)
    async with open_database(before, now=utc_now, new_id=new_id) as database:
        async with database.begin() as tx:
            agent = await agents.lock(tx, "agt_mine")
            assert agent is not None
            spec = msgspec.structs.replace(agent.spec, config={"tone": 1}, phase_id="P 1", capabilities=["review"])
            await agents.change(tx, agent, "updated", spec=spec)
        # The statements are those of the previous release.
        await put(database, "UPDATE manager.agents SET name = 'renamed' WHERE agent_id = 'agt_mine'")
        assert await column(database, "SELECT config FROM manager.agents WHERE agent_id = 'agt_mine'") == [{"tone": 1}]
        async with database.begin() as tx:
            agent = await agents.read(tx, "agt_mine")
        assert agent is not None
        assert agent.spec == msgspec.structs.replace(spec, name="renamed")
