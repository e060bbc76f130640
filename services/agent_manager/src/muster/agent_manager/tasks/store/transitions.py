"""The only code that writes the state of a task: locks the task's row, then stores the next state and an event.

A transaction locks the row of a task before any other row that belongs to the task. So two transactions cannot wait for
each other. The event is stored in the outbox, the table of unpublished events, in the same transaction as the change.
So the event is published if, and only if, the change is stored.
"""

from datetime import datetime

import msgspec
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from muster.agent_manager.database.rows import record
from muster.agent_manager.database.tables import tasks
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.tasks.domain.states import task_step
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.common.contract import encode
from muster.common.contracts.tasks import Delivery, TaskChanged, TaskState
from muster.common.storable_values import without_nul

QUERIED = ("priority", "labels", "depends_on")
"""Fields of the task's specification that also have a database column, for queries."""


async def lock_task(tx: Transaction, task_id: str) -> TaskRecord | None:
    """Lock the row of a task until the transaction ends; return the task, or None if it does not exist."""
    query = select(tasks).where(tasks.c.task_id == task_id).with_for_update()
    row = (await tx.connection.execute(query)).mappings().one_or_none()
    return None if row is None else record(row, TaskRecord)


async def add_task(tx: Transaction, task: TaskRecord) -> bool:
    """Store a new task with its first event; return False if a task with this id is stored already."""
    row = msgspec.to_builtins(task, builtin_types=(datetime,))
    row |= {name: row["spec"][name] for name in QUERIED}
    query = insert(tasks).values(**row)
    first = query.on_conflict_do_nothing(index_elements=["task_id"]).returning(tasks.c.task_id)
    if (await tx.connection.execute(first)).scalar_one_or_none() is None:
        return False
    await _tell(tx, task, None)
    return True


async def change_task(
    tx: Transaction, task: TaskRecord, to: TaskState, *, reason: str | None = None, **fields: object
) -> TaskRecord:
    """Store the next state of a task, other fields and the event of the change; return the changed task.

    Raises `IllegalTransitionError` if the transition is not allowed.
    """
    return await _store(tx, task, {**fields, "state": task_step(task.state, to)}, reason)


async def change_delivery(tx: Transaction, task: TaskRecord, delivery: Delivery, **fields: object) -> TaskRecord:
    """Store the delivery of a task that has ended, other fields and the event of the change; return the changed task.

    The state of the task does not change.
    """
    return await _store(tx, task, {**fields, "delivery": delivery}, None)


async def _store(tx: Transaction, task: TaskRecord, fields: dict[str, object], reason: str | None) -> TaskRecord:
    changed = {"version": task.version + 1, "updated_at": tx.now, **without_nul(fields)}
    row = {name: msgspec.to_builtins(value, builtin_types=(datetime,)) for name, value in changed.items()}
    if isinstance(delivery := changed.get("delivery"), Delivery):
        row["delivery"] = msgspec.to_builtins(delivery)  # JSON has no type for times.
    await tx.connection.execute(update(tasks).where(tasks.c.task_id == task.task_id).values(**row))
    after: TaskRecord = msgspec.structs.replace(task, **changed)
    await _tell(tx, after, reason)
    return after


async def _tell(tx: Transaction, task: TaskRecord, reason: str | None) -> None:
    event = TaskChanged(
        task_id=task.task_id,
        kind=task.state,
        event_id=tx.new_id("evt"),
        version=task.version,
        at=tx.now,
        state=task.state,
        epoch=task.epoch or None,
        sandbox_id=task.sandbox_id,
        agent_id=task.agent_id,
        body=msgspec.Raw(encode(_told(task, reason))),
    )
    await tx.tell(event, of=task.task_id)


def _told(task: TaskRecord, reason: str | None) -> dict[str, str | Delivery]:
    told: dict[str, str | Delivery | None] = {
        "reason": reason,
        "error": task.error,
        "summary": task.summary,
        "validation": task.validation,
        "limit": task.reached_limit,
        "delivery": task.delivery,
    }
    return {name: value for name, value in told.items() if value is not None}
