"""Schema `api`: a pool to write through, and a reader."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from muster.common.postgres.connection import DEFAULT_SIZES, PoolSizes, open_pool, typed
from muster.common.postgres.reading import Read, Reader, open_reader

_ANYTHING = Read("SELECT to_json(true)", bool)


class ApiDatabase:
    """Made by `open_database`. `reader` is for what every request asks."""

    def __init__(self, engine: AsyncEngine, reader: Reader) -> None:
        self._engine, self.reader = engine, reader
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def single(self) -> AsyncGenerator[AsyncConnection]:
        """For statements that each stand alone: each is its own transaction and costs one round trip."""
        with typed():
            async with self._single.connect() as connection:
                yield connection

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncConnection]:
        """All or nothing. Raises `Unavailable` when the database is away, also when the outcome is unknown."""
        with typed():
            async with self._engine.begin() as connection:
                yield connection

    async def answers(self) -> None:
        """Return when it has answered. Raises `Unavailable`."""
        await self.reader.one(_ANYTHING)


@asynccontextmanager
async def open_database(url: str, *, sizes: PoolSizes = DEFAULT_SIZES) -> AsyncGenerator[ApiDatabase]:
    """The database at `url`; connects when first used, closes at the end."""
    async with (
        open_pool(url, size=sizes.pool, overflow=sizes.overflow) as engine,
        open_reader(url, size=sizes.readers) as reader,
    ):
        yield ApiDatabase(engine, reader)
