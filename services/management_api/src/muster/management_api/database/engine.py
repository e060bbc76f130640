"""Opens connections to the database of the API: a pool for transactions, and a reader for single SELECT statements."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from muster.common.postgres.connection import DEFAULT_SIZES, PoolSizes, open_pool, typed
from muster.common.postgres.reading import Read, Reader, open_reader

_ANYTHING = Read(sa.select(sa.func.to_json(sa.true())), bool)


class ApiDatabase:
    """The database connections of the API, made by `open_database`. `reader` runs the statements of every request."""

    def __init__(self, engine: AsyncEngine, reader: Reader) -> None:
        self._engine, self.reader = engine, reader
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def single(self) -> AsyncGenerator[AsyncConnection]:
        """Open a database connection on which each statement is its own transaction and takes one round trip."""
        with typed():
            async with self._single.connect() as connection:
                yield connection

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncConnection]:
        """Open a database transaction.

        Raises `Unavailable` if the database is unreachable. The outcome of a commit may then be unknown.
        """
        with typed():
            async with self._engine.begin() as connection:
                yield connection

    async def answers(self) -> None:
        """Run a trivial statement to check that the database answers. Raises `Unavailable` if it does not."""
        await self.reader.one(_ANYTHING)


@asynccontextmanager
async def open_database(url: str, *, sizes: PoolSizes = DEFAULT_SIZES) -> AsyncGenerator[ApiDatabase]:
    """Return the connections to the database at `url`. They open at their first use and close with the context."""
    async with (
        open_pool(url, size=sizes.pool, overflow=sizes.overflow) as engine,
        open_reader(url, size=sizes.readers) as reader,
    ):
        yield ApiDatabase(engine, reader)
