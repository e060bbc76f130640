"""Reads rows from PostgreSQL as JSON, in one round trip, and decodes them into the wanted type.

Most requests that people wait for are reads. SQLAlchemy's engine needs several times as long for a read as PostgreSQL
itself. So a `Read` compiles its SQLAlchemy statement to SQL text only once. A `Reader` prepares this text once per
asyncpg connection, and each call sends only the values. PostgreSQL builds one JSON value per row.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs] - it has none
import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import asyncpg as dialects
from sqlalchemy.sql import visitors

from muster.common.postgres.connection import PoolSizes, connect, typed

_DIALECT = dialects.dialect()
type Rows = sa.Select[*tuple[Any, ...]]
"""A statement, whatever its columns are."""
_Bind = Callable[[Any], Any] | None


class Read[R]:
    """A statement that returns one JSON value per row, compiled once, with the type of a row.

    A `bindparam` with a name and without a value is an argument of the read. Every other value is written into the SQL
    text as a constant. So the text never changes. PostgreSQL can also use a partial index in a generic plan, because it
    sees the constants when it makes the plan.
    """

    def __init__(self, statement: Rows, row: type[R]) -> None:
        written = cast("Rows", visitors.replacement_traverse(statement, {}, _written))
        compiled = written.compile(dialect=_DIALECT)
        expanded = compiled.construct_expanded_state(compiled.params)
        self.text = expanded.statement
        names = expanded.positiontup or ()
        self._binds: dict[str, _Bind] = {name: _bind(compiled.binds[name]) for name in names}
        self.row = msgspec.json.Decoder(row).decode

    def ordered(self, values: Mapping[str, object]) -> list[object]:
        """Return the values in the order of the SQL parameters. Raises `KeyError` for a missing or unknown name."""
        if values.keys() != self._binds.keys():
            raise KeyError(f"the SQL statement needs the arguments {sorted(self._binds)}, not {sorted(values)}")
        return [values[name] if bind is None else bind(values[name]) for name, bind in self._binds.items()]


def _written(element: object, **_: object) -> sa.BindParameter[Any] | None:
    """Return a constant instead of a parameter that has a value, and None for every other part of the statement."""
    parameter = cast("sa.BindParameter[Any] | None", element if isinstance(element, sa.BindParameter) else None)
    return None if parameter is None or parameter.required else parameter.render_literal_execute()


def _bind(parameter: sa.BindParameter[Any]) -> _Bind:
    """Return SQLAlchemy's function that converts a value of the parameter for asyncpg, or None if none is needed."""
    return parameter.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)


def json_rows(query: Rows) -> Rows:
    """Return a statement that returns each row of `query` as one JSON object, with the columns as fields."""
    return sa.select(sa.func.row_to_json(query.subquery("rows").table_valued()))


def first_bytes(entries: Rows, *, newest_by: tuple[str, ...], most: int) -> Rows:
    """Return a statement that returns the first entries that fit into `most` bytes of JSON, at least one.

    `entries` selects a JSON value as the column `entry`, and the columns `newest_by`. Entries are sorted by these
    columns in descending order. Each result is `[entry, number]`. `number` counts all rows of `entries`, so the caller
    knows whether some entries were left out. PostgreSQL drops the other entries, so that no process needs memory for
    them.
    """
    each = entries.subquery("entries")
    order = [each.c[name].desc() for name in newest_by]
    size = sa.func.octet_length(sa.cast(each.c.entry, sa.Text))
    sized = sa.select(
        each.c.entry,
        sa.func.count().over().label("number"),
        sa.func.row_number().over(order_by=order).label("place"),
        sa.func.sum(size).over(order_by=order).label("size"),
    ).subquery("sized")
    fits = sa.or_(sized.c.place == 1, sized.c.size <= most)
    return sa.select(sa.func.json_build_array(sized.c.entry, sized.c.number)).where(fits).order_by(sized.c.place)


class Reader:
    """A pool of connections for reads that need no common transaction. `open_reader` creates the pool.

    A read returns all rows that were committed before the call. Raises `Unavailable` during an outage.
    """

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        # The connection that was used last is reused first, so that a quiet service opens few connections. The entry
        # None is a connection that is not open yet.
        self._idle: asyncio.LifoQueue[_Prepared | None] = asyncio.LifoQueue()
        for _ in range(size):
            self._idle.put_nowait(None)

    async def one[R](self, read: Read[R], **values: object) -> R | None:
        """Return the only row, or None."""
        found = await self._fetch(read.text, read.ordered(values))
        return read.row(found[0][0]) if found else None

    async def all[R](self, read: Read[R], **values: object) -> list[R]:
        """Return all rows."""
        return [read.row(found[0]) for found in await self._fetch(read.text, read.ordered(values))]

    async def _fetch(self, statement: str, arguments: list[object]) -> list[Any]:
        prepared = await self._idle.get()
        try:
            with typed():
                if prepared is None or prepared.connection.is_closed():
                    prepared = _Prepared(await connect(self._url))
                return await prepared.fetch(statement, arguments)
        except asyncpg.PostgresError:
            raise
        except BaseException:
            # Close the connection of a cancelled read, because the next read on this connection would get the rows of
            # the cancelled read.
            if prepared is not None:
                prepared.connection.terminate()
            raise
        finally:
            self._idle.put_nowait(prepared)

    def close(self) -> None:
        """Close every connection that is not in use."""
        while not self._idle.empty():
            if prepared := self._idle.get_nowait():
                prepared.connection.terminate()


class _Prepared:
    """A connection and its prepared statements.

    All statements return JSON, so a change of a table does not invalidate a prepared statement.
    """

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - asyncpg's connection is a proxy class of its own
        self.connection = connection
        self._statements: dict[str, Any] = {}

    async def fetch(self, statement: str, arguments: list[object]) -> list[Any]:
        known = self._statements.get(statement)
        if known is None:
            known = self._statements[statement] = await self.connection.prepare(statement)
        return await known.fetch(*arguments)


@asynccontextmanager
async def open_reader(url: str, *, size: int = PoolSizes.readers) -> AsyncGenerator[Reader]:
    """Open a pool of read connections to the database at `url`. The pool connects when it is first used."""
    reader = Reader(url, size)
    try:
        yield reader
    finally:
        reader.close()
