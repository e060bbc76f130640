"""Events that are decided but not yet told."""

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
    """One row: `body` is a `TaskChanged` or an `AgentChanged`, ready to be sent; `entity_id` is whose."""

    id: int
    entity_id: str
    version: int
    event_id: str
    subject: str
    body: bytes


async def oldest(database: ManagerDatabase) -> list[OutboxRow]:
    """The next ones, in the order in which they were decided."""
    columns = (outbox.c.id, outbox.c.entity_id, outbox.c.version, outbox.c.event_id, outbox.c.subject, outbox.c.body)
    async with database.begin() as tx:
        rows = (await tx.connection.execute(select(*columns).order_by(outbox.c.id).limit(BATCH))).mappings()
        return [OutboxRow(**row) for row in rows]


async def delivered(database: ManagerDatabase, ids: Sequence[int]) -> None:
    """Drop what the stream has acknowledged."""
    if ids:
        async with database.begin() as tx:
            await tx.connection.execute(delete(outbox).where(outbox.c.id.in_(ids)))


class RelayLock:
    """The right to relay, held by one connection and lost with it."""

    def __init__(self, url: str) -> None:
        self._url = url

    @asynccontextmanager
    async def take(self) -> AsyncGenerator["RelayLockState"]:
        """A connection that may hold the turn. Raises `Unavailable`."""
        connection = await connect(self._url)
        try:
            yield RelayLockState(connection)
        finally:
            connection.terminate()


class RelayLockState:
    """Whether this process has the turn."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - asyncpg's connection is a proxy class of its own
        self._connection = connection
        self._mine = False

    async def mine(self) -> bool:
        """Take the turn if it is free. Raises `Unavailable` when the connection, and with it the turn, is lost."""
        try:
            if self._mine:
                await self._connection.fetchval("SELECT 1")
            else:
                self._mine = await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", _RELAY_LOCK)
        except AWAY as error:
            raise away(error) from None
        return self._mine
