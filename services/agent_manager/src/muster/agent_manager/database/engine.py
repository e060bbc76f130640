"""Connections to database schema `manager`: a pool for transactions, and a reader for single statements."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from muster.agent_manager.database.transaction import Transaction
from muster.common.clock import Clock
from muster.common.ids import NewId
from muster.common.postgres.connection import DEFAULT_SIZES, PoolSizes, open_pool, typed
from muster.common.postgres.reading import Reader, open_reader

CHANGED = "manager_changed"
"""The channel on which each transaction that changed rows sends a NOTIFY."""


class ManagerDatabase:
    """Connections to the manager's database, made by `open_database`. `reader` serves requests that only read."""

    def __init__(self, engine: AsyncEngine, reader: Reader, url: str, *, now: Clock, new_id: NewId) -> None:
        self._engine, self.reader, self.url, self.now, self.new_id = engine, reader, url, now, new_id
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Transaction]:
        """Return a database connection for reading: each statement is a separate transaction with its own snapshot."""
        with typed():
            async with self._single.connect() as connection:
                yield Transaction(connection, now=self.now(), new_id=self.new_id)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Transaction]:
        """Open a transaction that notifies all replicas of the manager at its end if it has changed rows.

        Raises `Unavailable` if the database is unreachable, and also if the outcome of the commit is unknown.
        """
        with typed():
            async with self._engine.begin() as connection:
                tx = Transaction(connection, now=self.now(), new_id=self.new_id)
                yield tx
                if tx.changed:
                    await connection.execute(select(func.pg_notify(CHANGED, "")))


@asynccontextmanager
async def open_database(
    url: str, *, now: Clock, new_id: NewId, sizes: PoolSizes = DEFAULT_SIZES
) -> AsyncGenerator[ManagerDatabase]:
    """Return connections to the database at `url`: they open at first use, and close when `async with` ends."""
    async with (
        open_pool(url, size=sizes.pool, overflow=sizes.overflow) as engine,
        open_reader(url, size=sizes.readers) as reader,
    ):
        yield ManagerDatabase(engine, reader, url, now=now, new_id=new_id)
