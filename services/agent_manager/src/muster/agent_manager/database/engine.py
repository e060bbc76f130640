"""Schema `manager`: a pool to write through, a reader, and the one way to change anything: a transaction."""

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
"""The channel that is notified by each transaction that changed something."""


class ManagerDatabase:
    """Made by `open_database`. `reader` is for what is read on request."""

    def __init__(self, engine: AsyncEngine, reader: Reader, url: str, *, now: Clock, new_id: NewId) -> None:
        self._engine, self.reader, self.url, self.now, self.new_id = engine, reader, url, now, new_id
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Transaction]:
        """For the loops' reads, which need no common snapshot: each statement is its own transaction."""
        with typed():
            async with self._single.connect() as connection:
                yield Transaction(connection, now=self.now(), new_id=self.new_id)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Transaction]:
        """All or nothing. Raises `Unavailable` when the database is away, also when the outcome is unknown."""
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
    """The database at `url`; connects when first used, closes at the end."""
    async with (
        open_pool(url, size=sizes.pool, overflow=sizes.overflow) as engine,
        open_reader(url, size=sizes.readers) as reader,
    ):
        yield ManagerDatabase(engine, reader, url, now=now, new_id=new_id)
