"""Connections to schema `manager`: a pool for transactions, and a reader for single statements."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from muster.agent_manager.database.transaction import Transaction
from muster.common.clock import Clock
from muster.common.ids import NewId
from muster.common.postgres.connection import DEFAULT_SIZES, PoolSizes, open_pool, typed
from muster.common.postgres.reading import Reader, open_reader

CHANGED = "manager_changed"
"""The channel on which each transaction that changed something notifies."""


class ManagerDatabase:
    """The connections; made by `open_database`. `reader` serves requests that only read."""

    def __init__(self, engine: AsyncEngine, reader: Reader, url: str, *, now: Clock, new_id: NewId) -> None:
        self._engine, self.reader, self.url, self.now, self.new_id = engine, reader, url, now, new_id
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Transaction]:
        """Return a connection for reads of loops: each statement is its own transaction, with its own snapshot."""
        with typed():
            async with self._single.connect() as connection:
                yield Transaction(connection, now=self.now(), new_id=self.new_id)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Transaction]:
        """Open a transaction.

        Raises `Unavailable` if the database is away, also when the outcome of the commit is unknown.
        """
        with typed():
            async with self._engine.begin() as connection:
                tx = Transaction(connection, now=self.now(), new_id=self.new_id)
                yield tx
                if tx.changed:
                    await connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANGED})


@asynccontextmanager
async def open_database(
    url: str, *, now: Clock, new_id: NewId, sizes: PoolSizes = DEFAULT_SIZES
) -> AsyncGenerator[ManagerDatabase]:
    """Return the connections to the database at `url`: they open at first use, and close at the end of the block."""
    async with (
        open_pool(url, size=sizes.pool, overflow=sizes.overflow) as engine,
        open_reader(url, size=sizes.readers) as reader,
    ):
        yield ManagerDatabase(engine, reader, url, now=now, new_id=new_id)
