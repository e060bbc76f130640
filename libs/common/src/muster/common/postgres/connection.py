"""Opens connections to PostgreSQL, single or in a pool. Raises `Unavailable` for an outage.

SQLAlchemy, asyncpg and asyncio report an outage by different exceptions.
"""

import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg  # pyright: ignore[reportMissingTypeStubs] - it has none
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from muster.common.faults import Unavailable
from muster.common.settings import DatabaseSettings

CONNECT_DEADLINE_S = 3.0
STATEMENT_DEADLINE_S = 10.0

driver: Any = asyncpg


@dataclass(frozen=True, kw_only=True)
class PoolSizes:
    """The number of PostgreSQL connections that a service may open."""

    pool: int = 12
    """Connections kept for writing."""
    overflow: int = 0
    """Connections opened beyond these while all are in use."""
    readers: int = 8
    """Connections kept for reading."""


DEFAULT_SIZES = PoolSizes()


def pool_sizes(settings: DatabaseSettings) -> PoolSizes:
    """Return the pool sizes from the settings."""
    return PoolSizes(
        pool=settings.database_pool_size, overflow=settings.database_pool_overflow, readers=settings.database_readers
    )


AWAY: tuple[type[Exception], ...] = (
    OSError,  # `TimeoutError` is an `OSError` too.
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # The server is shutting down or starting.
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # The connection was lost in the middle of a reply.
    exc.TimeoutError,
    exc.InterfaceError,
    exc.OperationalError,
)


def dsn(url: str) -> str:
    """Return the URL with the scheme `postgresql`, which asyncpg requires."""
    return f"postgresql://{url.partition('://')[2]}"


async def connect(url: str, *, long_statements: bool = False) -> Any:  # noqa: ANN401 - asyncpg's connection is a proxy class of its own
    """Open one connection. Raises `Unavailable`.

    `long_statements` is for migrations, which may build an index or wait for another migration without a deadline.
    """
    try:
        return await driver.connect(
            dsn(url),
            timeout=CONNECT_DEADLINE_S,
            command_timeout=None if long_statements else STATEMENT_DEADLINE_S,
            server_settings={"timezone": "UTC"},  # PostgreSQL then uses UTC for times in JSON.
        )
    except asyncpg.InvalidAuthorizationSpecificationError:
        raise Unavailable("PostgreSQL refuses this user or password; check MUSTER_DATABASE_URL") from None
    except AWAY as error:
        raise away(error) from None


def away(error: BaseException) -> Unavailable:
    """Return the `Unavailable` error for a PostgreSQL server that cannot be reached."""
    if isinstance(error, ssl.SSLError):
        return Unavailable(f"no TLS with PostgreSQL ({error.reason}); check MUSTER_DATABASE_TLS_CA_FILE")
    return Unavailable(f"PostgreSQL is unreachable ({type(error).__name__})")


@contextmanager
def typed() -> Generator[None]:
    """Convert the exceptions by which three libraries report an outage to `Unavailable`."""
    try:
        yield
    except exc.DBAPIError as error:
        if error.connection_invalidated or isinstance(error, AWAY) or isinstance(_cause(error), AWAY):
            raise away(error) from None
        raise
    except AWAY as error:
        raise away(error) from None


def _cause(error: exc.DBAPIError) -> BaseException | None:
    # SQLAlchemy wraps asyncpg's error twice.
    return error.orig.__cause__ if error.orig is not None else None


def _refuse_closed(connection: Any, *_: object) -> None:  # noqa: ANN401 - SQLAlchemy's event protocol
    """Make the pool replace a connection that the server has closed. asyncpg detects the closing without a ping."""
    if connection.driver_connection.is_closed():
        raise exc.DisconnectionError


@asynccontextmanager
async def open_pool(url: str, *, size: int = PoolSizes.pool, overflow: int = 0) -> AsyncGenerator[AsyncEngine]:
    """Open a connection pool for `url`. The pool connects when it is first used."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(url),
        pool_size=size,
        max_overflow=overflow,
        # Reuse the connection that was used last, because it has prepared statements. A quiet service then opens few
        # connections.
        pool_use_lifo=True,
        pool_timeout=CONNECT_DEADLINE_S,
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    try:
        yield engine
    finally:
        await engine.dispose()
