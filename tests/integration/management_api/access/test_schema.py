"""Migrations of the schema `api` on a real PostgreSQL.

An older schema is refused, and a new one contains the administrator.
"""

import asyncio
import os
import subprocess
import sys

import pytest

from muster.common.postgres.history import EMPTY, HEAD, OldSchema
from muster.embedded.sql import connected
from muster.management_api.database.engine import open_database
from muster.management_api.database.schema import HISTORY, refuse_older
from muster.management_api.database.tables import metadata


async def columns(url: str) -> set[tuple[str, str]]:
    query = """SELECT array_agg(table_name || ' ' || column_name) FROM information_schema.columns
               WHERE table_schema = 'api' AND table_name <> 'alembic_version'"""
    async with connected(url) as database:
        return {tuple(line.split()) for line in await database.fetchval(query) or ()}


async def test_schema_survives_upgrade_downgrade_and_upgrade_and_matches_the_queries(database_url: str):
    async with open_database(database_url) as database:
        with pytest.raises(OldSchema, match="run `python -m muster.management_api migrate`".replace(".", r"\.")):
            await refuse_older(database)
        await asyncio.gather(*(HISTORY.migrate(database_url) for _ in range(3)))
        await refuse_older(database)
    up = await columns(database_url)
    assert up == {(table.name, column.name) for table in metadata.tables.values() for column in table.columns}
    async with connected(database_url) as database:
        assert await database.fetchval("SELECT role FROM api.users WHERE user_id = 'admin'") == "admin"
    await HISTORY.migrate(database_url, EMPTY)
    assert await columns(database_url) == set()
    await HISTORY.migrate(database_url, HEAD)
    assert await columns(database_url) == up


def api(database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": os.environ["PATH"],
        "MUSTER_NATS_URL": "nats://127.0.0.1:1",
        "MUSTER_DATABASE_URL": database_url,
        "MUSTER_ADMIN_KEY": "k" * 16,
    }
    command = [sys.executable, "-m", "muster.management_api", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.stress
async def test_migrate_command_migrates_the_schema_and_prints_its_usage(database_url: str):
    assert (await asyncio.to_thread(api, database_url, "migrate")).returncode == 0
    assert await columns(database_url)
    assert (await asyncio.to_thread(api, database_url, "migrate", "--down")).returncode == 0
    assert await columns(database_url), "one back is not the beginning"
    assert (await asyncio.to_thread(api, database_url, "migrate", "--to", "base")).returncode == 0
    assert not await columns(database_url)
    wrong = await asyncio.to_thread(api, database_url, "upgrade")
    assert (wrong.returncode, "usage: python -m muster.management_api" in wrong.stderr) == (1, True)
