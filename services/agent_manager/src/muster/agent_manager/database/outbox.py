"""The outbox: a table of events that are stored together with the change that they announce, and published later.

One transaction stores a change and its event, so an event is published if, and only if, the change is stored. One
replica at a time publishes (`RelayLock`). It deletes a row after JetStream has acknowledged the event. If the replica
dies before the deletion, another replica publishes the event again with the same message id.
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
    """One row of the outbox. `body` is an encoded `TaskChanged` or `AgentChanged` of the task or agent `entity_id`."""

    id: int
    entity_id: str
    version: int
    event_id: str
    subject: str
    body: bytes


async def oldest(database: ManagerDatabase) -> list[OutboxRow]:
    """Return the oldest rows of the outbox, at most 200, in the order in which they were stored."""
    columns = (outbox.c.id, outbox.c.entity_id, outbox.c.version, outbox.c.event_id, outbox.c.subject, outbox.c.body)
    async with database.begin() as tx:
        rows = (await tx.connection.execute(select(*columns).order_by(outbox.c.id).limit(BATCH))).mappings()
        return [OutboxRow(**row) for row in rows]


async def delivered(database: ManagerDatabase, ids: Sequence[int]) -> None:
    """Delete outbox rows whose events JetStream has acknowledged."""
    if ids:
        async with database.begin() as tx:
            await tx.connection.execute(delete(outbox).where(outbox.c.id.in_(ids)))


class RelayLock:
    """The right to publish events: a session lock of PostgreSQL, lost when its connection ends."""

    def __init__(self, url: str) -> None:
        self._url = url

    @asynccontextmanager
    async def take(self) -> AsyncGenerator["RelayLockState"]:
        """Open the connection that can take the relay lock. Raises `Unavailable` if the database is unreachable."""
        connection = await connect(self._url)
        try:
            yield RelayLockState(connection)
        finally:
            connection.terminate()


class RelayLockState:
    """Knows whether this process has the relay lock, and tries to take the lock."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - asyncpg's connection is a proxy class of its own
        self._connection = connection
        self._mine = False

    async def mine(self) -> bool:
        """Take the relay lock if it is free, and return whether this process has the lock.

        Raises `Unavailable` if the connection is lost, which also releases the lock.
        """
        try:
            if self._mine:
                await self._connection.fetchval("SELECT 1")
            else:
                self._mine = await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", _RELAY_LOCK)
        except AWAY as error:
            raise away(error) from None
        return self._mine
