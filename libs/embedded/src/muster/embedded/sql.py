"""Connections to PostgreSQL with type annotations, which the library asyncpg lacks."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Protocol, cast

asyncpg = import_module("asyncpg")

DEADLINE_S = 10
NOT_YET: tuple[type[Exception], ...] = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""Errors of a connection to a PostgreSQL server that is still starting."""
WRONG_PASSWORD: type[Exception] = asyncpg.InvalidPasswordError


class SqlConnection(Protocol):
    """The methods of an asyncpg connection that this package uses."""

    async def execute(self, query: str, *arguments: object) -> str:
        """Run an SQL statement and return its status text."""
        ...

    async def fetchval(self, query: str, *arguments: object) -> Any:  # noqa: ANN401 - a column of any type
        """Run an SQL query and return the first column of the first row."""
        ...


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[SqlConnection]:
    """Connect to a PostgreSQL database; close the connection when the `async with` block ends."""
    connection: Any = await asyncpg.connect(url, timeout=DEADLINE_S, command_timeout=DEADLINE_S, ssl=False)
    try:
        yield cast("SqlConnection", connection)
    finally:
        await connection.close(timeout=DEADLINE_S)
