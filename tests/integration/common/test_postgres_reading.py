"""Reads on a real PostgreSQL return the right rows, and no reader receives the result of another reader."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from muster.common.faults import Unavailable
from muster.common.postgres.connection import connect
from muster.common.postgres.reading import Read, first_bytes, json_rows, open_reader
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable


class Thing(msgspec.Struct, frozen=True):
    """A row of the test table."""

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
THINGS = sa.table("things", sa.column("name", sa.Text), sa.column("labels", JSONB))
WHOLE = sa.func.row_to_json(THINGS.table_valued())
ONE = Read(sa.select(WHOLE).where(THINGS.c.name == sa.bindparam("name")), Thing)
ALL = Read(sa.select(WHOLE).order_by(THINGS.c.name), Thing)
TEXT = sa.func.to_json(sa.bindparam("text", type_=sa.Text))
ECHO = Read(sa.select(TEXT), str)
SLOWLY = Read(sa.select(TEXT).select_from(sa.func.pg_sleep(30).table_valued()), str)


async def make(url: str) -> None:
    connection = await connect(url)
    await connection.execute(MAKE)
    await connection.close()


async def test_rows_are_decoded_with_their_types(database_url: str) -> None:
    await make(database_url)
    async with open_reader(database_url) as reader:
        one = await reader.one(ONE, name="a")
        every = await reader.all(ALL)

        assert one == Thing("a", datetime(2026, 11, 21, 1, 2, 3, 4, tzinfo=UTC), {"x": [1, None]}, ["p", "q"], 0.1)
        assert [thing.name for thing in every] == ["a", "b"]
        assert await reader.one(ONE, name="nobody") is None
        assert msgspec.json.encode(every[1].at) == b'"2026-11-21T01:02:03Z"'


async def test_constants_of_a_statement_are_written_into_its_text(database_url: str) -> None:
    await make(database_url)
    quoted = sa.literal("it's 100 %(a)s $1 :b").label("name")
    read = Read(
        json_rows(sa.select(quoted, THINGS.c.name.in_(["a", "c"]).label("known")).select_from(THINGS)), dict[str, Any]
    )
    async with open_reader(database_url) as reader:
        assert await reader.all(read) == [
            {"name": "it's 100 %(a)s $1 :b", "known": True},
            {"name": "it's 100 %(a)s $1 :b", "known": False},
        ]
    assert "$1:" not in read.text


async def test_values_are_given_by_name_and_as_their_types_say(database_url: str) -> None:
    await make(database_url)
    of_labels = sa.select(THINGS.c.name).where(THINGS.c.labels.contains(sa.bindparam("labels")))
    names = sa.select(sa.func.to_json(of_labels.where(THINGS.c.name != sa.bindparam("not_name")).subquery().c.name))
    read = Read(names, str)
    async with open_reader(database_url) as reader:
        assert await reader.all(read, labels={"x": [None]}, not_name="b") == ["a"]
        assert await reader.all(read, not_name="a", labels={"x": [None]}) == []
        with pytest.raises(KeyError, match="not_name"):
            await reader.all(read, labels={})
        with pytest.raises(KeyError, match="not_name"):
            await reader.all(read, labels={}, not_name="a", name="b")


async def test_a_page_ends_where_its_bytes_end_but_has_one_entry(database_url: str) -> None:
    await make(database_url)
    entries = sa.select(sa.func.to_json(THINGS.c.name).label("entry"), THINGS.c.name)
    for most, names in ((1, ["b"]), (3, ["b"]), (6, ["b", "a"])):
        read = Read(first_bytes(entries, newest_by=("name",), most=most), tuple[str, int])
        async with open_reader(database_url) as reader:
            assert await reader.all(read) == [(name, 2) for name in names]


async def test_a_read_outlives_a_change_of_its_table(database_url: str) -> None:
    await make(database_url)
    async with open_reader(database_url, size=1) as reader:
        for _ in range(10):  # by now PostgreSQL has a plan it keeps
            await reader.one(ONE, name="a")
        connection = await connect(database_url)
        await connection.execute("ALTER TABLE things ADD note text DEFAULT 'new', ADD other int")
        await connection.close()

        found = await reader.one(ONE, name="a")

        assert found
        assert found.note == "new"


async def test_cancelled_read_does_not_leave_its_result_to_another_reader(database_url: str) -> None:
    async with open_reader(database_url, size=2) as reader:
        for number in range(4):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await reader.one(SLOWLY, text="given up")

            assert await reader.one(ECHO, text=f"asked {number}") == f"asked {number}"


async def test_reads_wait_for_a_free_connection(database_url: str) -> None:
    async with open_reader(database_url, size=2) as reader, asyncio.timeout(PATIENCE_S):
        asked = [str(number) for number in range(100)]

        assert await asyncio.gather(*(reader.one(ECHO, text=one) for one in asked)) == asked


async def test_database_outage_raises_unavailable_until_it_ends(postgres_server: Restartable) -> None:
    async with open_reader(postgres_server.url) as reader, asyncio.timeout(PATIENCE_S):
        assert await asyncio.gather(*(reader.one(ECHO, text="before") for _ in range(8))) == ["before"] * 8
        await postgres_server.kill()
        for _ in range(3):
            with pytest.raises(Unavailable, match="unreachable"):
                await reader.one(ECHO, text="during")
        await postgres_server.start()

        assert await asyncio.gather(*(reader.one(ECHO, text="after") for _ in range(8))) == ["after"] * 8
