"""Reads on real PostgreSQL: what they answer, and that nobody is ever told what another one asked."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from muster.common.faults import Unavailable
from muster.common.postgres.connection import connect
from muster.common.postgres.reading import Read, open_reader
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable


class Thing(msgspec.Struct, frozen=True):
    """A row."""

    name: str
    at: datetime
    labels: dict[str, Any]
    tags: list[str]
    weight: float
    note: str | None = None


MAKE = """
    SET TIME ZONE 'Asia/Kolkata';
    CREATE TABLE things (name text, at timestamptz, labels jsonb, tags text[], weight double precision);
    INSERT INTO things VALUES ('a', '2026-11-21T01:02:03.000004Z', '{"x": [1, null]}', '{"p","q"}', 0.1),
                              ('b', '2026-11-21T01:02:03Z', '{}', '{}', 2)
"""
ONE = Read("SELECT row_to_json(t) FROM things t WHERE name = $1", Thing)
ALL = Read("SELECT row_to_json(t) FROM things t ORDER BY name", Thing)
ECHO = Read("SELECT to_json($1::text)", str)
SLOWLY = Read("SELECT to_json($1::text) FROM pg_sleep(30)", str)


async def make(url: str) -> None:
    connection = await connect(url)
    await connection.execute(MAKE)
    await connection.close()


async def test_a_row_is_read_as_what_it_is(database_url: str) -> None:
    await make(database_url)
    async with open_reader(database_url) as reader:
        one = await reader.one(ONE, "a")
        every = await reader.all(ALL)

        assert one == Thing("a", datetime(2026, 11, 21, 1, 2, 3, 4, tzinfo=UTC), {"x": [1, None]}, ["p", "q"], 0.1)
        assert [thing.name for thing in every] == ["a", "b"]
        assert await reader.one(ONE, "nobody") is None
        assert msgspec.json.encode(every[1].at) == b'"2026-11-21T01:02:03Z"'


async def test_a_read_outlives_a_change_of_its_table(database_url: str) -> None:
    await make(database_url)
    async with open_reader(database_url, size=1) as reader:
        for _ in range(10):  # by now PostgreSQL has a plan it keeps
            await reader.one(ONE, "a")
        connection = await connect(database_url)
        await connection.execute("ALTER TABLE things ADD note text DEFAULT 'new', ADD other int")
        await connection.close()

        found = await reader.one(ONE, "a")

        assert found
        assert found.note == "new"


async def test_a_read_given_up_leaves_its_answer_to_nobody(database_url: str) -> None:
    async with open_reader(database_url, size=2) as reader:
        for number in range(4):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await reader.one(SLOWLY, "given up")

            assert await reader.one(ECHO, f"asked {number}") == f"asked {number}"


async def test_more_reads_than_connections_take_turns(database_url: str) -> None:
    async with open_reader(database_url, size=2) as reader, asyncio.timeout(PATIENCE_S):
        asked = [str(number) for number in range(100)]

        assert await asyncio.gather(*(reader.one(ECHO, text) for text in asked)) == asked


async def test_an_outage_is_told_as_one_and_ends(postgres_server: Restartable) -> None:
    async with open_reader(postgres_server.url) as reader, asyncio.timeout(PATIENCE_S):
        assert await asyncio.gather(*(reader.one(ECHO, "before") for _ in range(8))) == ["before"] * 8
        await postgres_server.kill()
        for _ in range(3):
            with pytest.raises(Unavailable, match="away"):
                await reader.one(ECHO, "during")
        await postgres_server.start()

        assert await asyncio.gather(*(reader.one(ECHO, "after") for _ in range(8))) == ["after"] * 8
