"""Connections to PostgreSQL: one, or a pool. An outage is `Unavailable`, whichever library reports it."""

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
    """How many connections a service has to PostgreSQL."""

    pool: int = 12
    """Connections kept for writing."""
    overflow: int = 0
    """Connections opened beyond these while all are in use."""
    readers: int = 8
    """Connections kept for reading."""


DEFAULT_SIZES = PoolSizes()


def pool_sizes(settings: DatabaseSettings) -> PoolSizes:
    """Return the sizes of the settings."""
    return PoolSizes(
        pool=settings.database_pool_size, overflow=settings.database_pool_overflow, readers=settings.database_readers
    )


AWAY: tuple[type[Exception], ...] = (
    OSError,  # and with it `TimeoutError`
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutting down, starting up
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that was lost in the middle of a reply
    exc.TimeoutError,
    exc.InterfaceError,
    exc.OperationalError,
)


def dsn(url: str) -> str:
    """Return the URL as asyncpg takes it, whatever scheme the user wrote."""
    return f"postgresql://{url.partition('://')[2]}"


async def connect(url: str, *, long_statements: bool = False) -> Any:  # noqa: ANN401 - asyncpg's connection is a proxy class of its own
    """Open one connection. Raises `Unavailable`.

    `long_statements` is for migrations: building an index, or waiting for another migration, has no deadline.
    """
    try:
        return await driver.connect(
            dsn(url),
            timeout=CONNECT_DEADLINE_S,
            command_timeout=None if long_statements else STATEMENT_DEADLINE_S,
            server_settings={"timezone": "UTC"},  # what a moment looks like in JSON
        )
    except asyncpg.InvalidAuthorizationSpecificationError:
        raise Unavailable("PostgreSQL refuses this user or password; check MUSTER_DATABASE_URL") from None
    except AWAY as error:
        raise away(error) from None


def away(error: BaseException) -> Unavailable:
    """Return the error for a PostgreSQL that cannot be reached."""
    if isinstance(error, ssl.SSLError):
        return Unavailable(f"no TLS with PostgreSQL ({error.reason}); check MUSTER_DATABASE_TLS_CA_FILE")
    return Unavailable(f"the database is away ({type(error).__name__})")


@contextmanager
def typed() -> Generator[None]:
    """Raise outages, which three libraries report in their own ways, as `Unavailable`."""
    try:
        yield
    except exc.DBAPIError as error:
        if error.connection_invalidated or isinstance(error, AWAY) or isinstance(_cause(error), AWAY):
            raise away(error) from None
        raise
    except AWAY as error:
        raise away(error) from None


def _cause(error: exc.DBAPIError) -> BaseException | None:
    # SQLAlchemy wraps asyncpg's error in its own, which is in turn the `orig` of a third.
    return error.orig.__cause__ if error.orig is not None else None


def _refuse_closed(connection: Any, *_: object) -> None:  # noqa: ANN401 - SQLAlchemy's event protocol
    """Have the pool replace a connection that the server closed: that is known here already, so no ping is needed."""
    if connection.driver_connection.is_closed():
        raise exc.DisconnectionError


@asynccontextmanager
async def open_pool(url: str, *, size: int = PoolSizes.pool, overflow: int = 0) -> AsyncGenerator[AsyncEngine]:
    """Return a pool on `url`; it connects when first used, and closes at the end."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(url),
        pool_size=size,
        max_overflow=overflow,
        pool_use_lifo=True,  # the one used last goes out first: it knows the statements, and a quiet service keeps few
        pool_timeout=CONNECT_DEADLINE_S,
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    try:
        yield engine
    finally:
        await engine.dispose()
