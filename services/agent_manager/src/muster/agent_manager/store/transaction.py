"""What one transaction may do: lock a task, and change it together with its event in the outbox."""

from datetime import datetime

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from muster.agent_manager.domain.states import task_step
from muster.agent_manager.domain.tasks import Task
from muster.agent_manager.store.rows import record, storable
from muster.agent_manager.store.tables import outbox, tasks
from muster.common.contract import encode
from muster.common.contracts.agents import AgentChanged
from muster.common.contracts.tasks import TaskChanged, TaskState
from muster.common.ids import NewId


class Transaction:
    """An open transaction, made by `Database.begin`. The row lock on the task comes before any other row of it."""

    def __init__(self, connection: AsyncConnection, *, now: datetime, new_id: NewId) -> None:
        self.connection, self.now, self.new_id = connection, now, new_id
        self.changed = False

    async def database_now(self) -> datetime:
        """Read the database's clock, the one that every manager shares; `now` is this process's own."""
        return (await self.connection.execute(select(func.clock_timestamp()))).scalar_one()

    async def lock(self, task_id: str) -> Task | None:
        """The task, held until this transaction ends."""
        query = select(tasks).where(tasks.c.task_id == task_id).with_for_update()
        row = (await self.connection.execute(query)).mappings().one_or_none()
        return None if row is None else record(row, Task)

    async def add(self, task: Task) -> bool:
        """Store a new task and its first event, unless there is one of that id."""
        query = insert(tasks).values(**msgspec.to_builtins(task, builtin_types=(datetime,)))
        first = query.on_conflict_do_nothing(index_elements=["task_id"]).returning(tasks.c.task_id)
        if (await self.connection.execute(first)).scalar_one_or_none() is None:
            return False
        await self._tell(task, None)
        return True

    async def change(self, task: Task, to: TaskState, *, reason: str | None = None, **fields: object) -> Task:
        """Store the task's next state, `fields` and its event. Raises `IllegalTransitionError`."""
        state = task_step(task.state, to)
        changed = {"state": state, "version": task.version + 1, "updated_at": self.now, **storable(fields)}
        await self.connection.execute(update(tasks).where(tasks.c.task_id == task.task_id).values(**changed))
        after: Task = msgspec.structs.replace(task, **changed)
        await self._tell(after, reason)
        return after

    async def _tell(self, task: Task, reason: str | None) -> None:
        event = TaskChanged(
            task_id=task.task_id,
            kind=task.state,
            event_id=self.new_id("evt"),
            version=task.version,
            at=self.now,
            state=task.state,
            epoch=task.epoch or None,
            sandbox_id=task.sandbox_id,
            agent_id=task.agent_id,
            body=msgspec.Raw(encode(_told(task, reason))),
        )
        await self.tell(event, of=task.task_id)

    async def tell(self, event: TaskChanged | AgentChanged, *, of: str) -> None:
        """Have the relay publish an event if, and only if, this transaction is stored."""
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


def _told(task: Task, reason: str | None) -> dict[str, str]:
    told = {"reason": reason, "error": task.error, "summary": task.summary, "validation": task.validation}
    return {name: value for name, value in told.items() if value is not None}
