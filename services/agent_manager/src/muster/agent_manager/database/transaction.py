"""The transaction of the agent manager: changes rows, and stores the events of the changes in the outbox."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from muster.agent_manager.database.tables import outbox
from muster.common.contract import encode
from muster.common.contracts.agents import AgentChanged
from muster.common.contracts.tasks import TaskChanged
from muster.common.ids import NewId


class Transaction:
    """An open database transaction, made by `ManagerDatabase.begin`."""

    def __init__(self, connection: AsyncConnection, *, now: datetime, new_id: NewId) -> None:
        self.connection, self.now, self.new_id = connection, now, new_id
        self.changed = False

    async def database_now(self) -> datetime:
        """Return the time of the database's clock, which all managers share; `now` is the clock of this process."""
        return (await self.connection.execute(select(func.clock_timestamp()))).scalar_one()

    async def tell(self, event: TaskChanged | AgentChanged, *, of: str) -> None:
        """Store an event in the outbox: the event is published if, and only if, this transaction is committed."""
        await self.connection.execute(
            insert(outbox).values(
                entity_id=of,
                version=event.version,
                event_id=event.event_id,
                subject=event.subject,
                body=encode(event),
                created_at=self.now,
            )
        )
        self.changed = True
