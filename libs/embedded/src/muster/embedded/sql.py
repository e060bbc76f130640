"""A connection to PostgreSQL, typed: asyncpg has no types of its own."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Protocol, cast

asyncpg = import_module("asyncpg")

DEADLINE_S = 10
NOT_YET: tuple[type[Exception], ...] = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a server that is still coming up answers with."""
WRONG_PASSWORD: type[Exception] = asyncpg.InvalidPasswordError


class SqlConnection(Protocol):
    """What is used of asyncpg's."""

    async def execute(self, query: str, *arguments: object) -> str:
        """Run a statement."""
        ...

    async def fetchval(self, query: str, *arguments: object) -> Any:  # noqa: ANN401 - a column of any type
        """The first column of the first row."""
        ...


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[SqlConnection]:
    """Connect for a moment."""
    connection: Any = await asyncpg.connect(url, timeout=DEADLINE_S, command_timeout=DEADLINE_S, ssl=False)
    try:
        yield cast("SqlConnection", connection)
    finally:
        await connection.close(timeout=DEADLINE_S)
