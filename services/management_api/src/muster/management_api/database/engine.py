"""Connections to schema `api`: a pool for transactions, and a reader for single statements."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from muster.common.postgres.connection import DEFAULT_SIZES, PoolSizes, open_pool, typed
from muster.common.postgres.reading import Read, Reader, open_reader

_ANYTHING = Read("SELECT to_json(true)", bool)


class ApiDatabase:
    """The connections; made by `open_database`. `reader` serves what every request reads."""

    def __init__(self, engine: AsyncEngine, reader: Reader) -> None:
        self._engine, self.reader = engine, reader
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def single(self) -> AsyncGenerator[AsyncConnection]:
        """Return a connection for independent statements: each is its own transaction and costs one round trip."""
        with typed():
            async with self._single.connect() as connection:
                yield connection

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction.

        Raises `Unavailable` if the database is away, also when the outcome of the commit is unknown.
        """
        with typed():
            async with self._engine.begin() as connection:
                yield connection

    async def answers(self) -> None:
        """Return when the database has answered. Raises `Unavailable`."""
        await self.reader.one(_ANYTHING)


@asynccontextmanager
async def open_database(url: str, *, sizes: PoolSizes = DEFAULT_SIZES) -> AsyncGenerator[ApiDatabase]:
    """Return the connections to the database at `url`: they open at first use, and close at the end of the block."""
    async with (
        open_pool(url, size=sizes.pool, overflow=sizes.overflow) as engine,
        open_reader(url, size=sizes.readers) as reader,
    ):
        yield ApiDatabase(engine, reader)
