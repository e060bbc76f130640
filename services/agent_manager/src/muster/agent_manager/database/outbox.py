"""The outbox: events stored with the change that they announce, and not yet published.

A transaction stores a change and its event together, so an event is published if, and only if, the change is stored.
One replica at a time publishes (`RelayLock`); a row is deleted after JetStream has acknowledged the event. A relay that
dies in between publishes the event again, with the same message id.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import delete, select

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.tables import outbox
from muster.common.postgres.connection import AWAY, away, connect

_RELAY_LOCK = 0x6D75_7374_6D67_7204
BATCH = 200


class OutboxRow(msgspec.Struct, frozen=True):
    """One row. `body` is an encoded `TaskChanged` or `AgentChanged`; `entity_id` is its task or agent."""

    id: int
    entity_id: str
    version: int
    event_id: str
    subject: str
    body: bytes


async def oldest(database: ManagerDatabase) -> list[OutboxRow]:
    """Return the oldest rows, in the order in which they were stored."""
    columns = (outbox.c.id, outbox.c.entity_id, outbox.c.version, outbox.c.event_id, outbox.c.subject, outbox.c.body)
    async with database.begin() as tx:
        rows = (await tx.connection.execute(select(*columns).order_by(outbox.c.id).limit(BATCH))).mappings()
        return [OutboxRow(**row) for row in rows]


async def delivered(database: ManagerDatabase, ids: Sequence[int]) -> None:
    """Delete rows whose events the stream has acknowledged."""
    if ids:
        async with database.begin() as tx:
            await tx.connection.execute(delete(outbox).where(outbox.c.id.in_(ids)))


class RelayLock:
    """The right to publish: a session lock of PostgreSQL, lost with the connection that holds it."""

    def __init__(self, url: str) -> None:
        self._url = url

    @asynccontextmanager
    async def take(self) -> AsyncGenerator["RelayLockState"]:
        """Open a connection that may take the lock. Raises `Unavailable`."""
        connection = await connect(self._url)
        try:
            yield RelayLockState(connection)
        finally:
            connection.terminate()


class RelayLockState:
    """Whether this process holds the lock."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - asyncpg's connection is a proxy class of its own
        self._connection = connection
        self._mine = False

    async def mine(self) -> bool:
        """Take the lock if it is free. Raises `Unavailable` if the connection, and with it the lock, is lost."""
        try:
            if self._mine:
                await self._connection.fetchval("SELECT 1")
            else:
                self._mine = await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", _RELAY_LOCK)
        except AWAY as error:
            raise away(error) from None
        return self._mine
