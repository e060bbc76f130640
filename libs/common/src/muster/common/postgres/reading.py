"""Reads: one statement, one round trip, rows as JSON, decoded at once into the wanted type.

Most requests that people wait for are reads. SQLAlchemy, which writes, would take several times as long for each
statement as PostgreSQL does; here a statement is text, prepared once for each connection, and PostgreSQL builds the
JSON.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # pyright: ignore[reportMissingTypeStubs] - it has none
import msgspec

from muster.common.postgres.connection import PoolSizes, connect, typed


class Read[R]:
    """A statement whose rows are one JSON value each, with `$1` and so on for its arguments, and the type of a row."""

    def __init__(self, statement: str, row: type[R]) -> None:
        self.statement = statement
        self.row = msgspec.json.Decoder(row).decode


def first_bytes(rows: str, *, order: str, most: int) -> str:
    """Return a statement for the first entries of `rows` that fit into `most` bytes of JSON, and for at least one.

    `rows` selects one JSON value as `entry`, and the columns that `order` names. Each result is `[entry, number]`;
    `number` counts all rows of `rows`, so that the caller knows whether some were left out. PostgreSQL cuts, so that no
    process holds what is not sent.
    """
    return f"""
        SELECT json_build_array(entry, number) FROM (
            SELECT entry, count(*) OVER () AS number, row_number() OVER in_order AS place,
                sum(octet_length(entry::text)) OVER in_order AS size
            FROM ({rows}) AS entries WINDOW in_order AS (ORDER BY {order})
        ) AS sized WHERE place = 1 OR size <= {most} ORDER BY place"""  # noqa: S608 - constants


class Reader:
    """Connections for reads that need no common snapshot. Made by `open_reader`.

    A read returns committed rows, never older than the call. Raises `Unavailable`.
    """

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        # The connection used last goes out first: a quiet service keeps few connections. `None`: not connected yet.
        self._idle: asyncio.LifoQueue[_Prepared | None] = asyncio.LifoQueue()
        for _ in range(size):
            self._idle.put_nowait(None)

    async def one[R](self, read: Read[R], *arguments: object) -> R | None:
        """Return the only row, or None."""
        found = await self._fetch(read.statement, arguments)
        return read.row(found[0][0]) if found else None

    async def all[R](self, read: Read[R], *arguments: object) -> list[R]:
        """Return every row."""
        return [read.row(found[0]) for found in await self._fetch(read.statement, arguments)]

    async def _fetch(self, statement: str, arguments: tuple[object, ...]) -> list[Any]:
        prepared = await self._idle.get()
        try:
            with typed():
                if prepared is None or prepared.connection.is_closed():
                    prepared = _Prepared(await connect(self._url))
                return await prepared.fetch(statement, arguments)
        except asyncpg.PostgresError:
            raise
        except BaseException:
            # The read was given up in the middle: the next user of this connection would get its rows.
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

    They return JSON whatever happens to the tables, so none becomes invalid.
    """

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - asyncpg's connection is a proxy class of its own
        self.connection = connection
        self._statements: dict[str, Any] = {}

    async def fetch(self, statement: str, arguments: tuple[object, ...]) -> list[Any]:
        known = self._statements.get(statement)
        if known is None:
            known = self._statements[statement] = await self.connection.prepare(statement)
        return await known.fetch(*arguments)


@asynccontextmanager
async def open_reader(url: str, *, size: int = PoolSizes.readers) -> AsyncGenerator[Reader]:
    """Return a reader of the database at `url`; it connects when first used, and closes at the end."""
    reader = Reader(url, size)
    try:
        yield reader
    finally:
        reader.close()
