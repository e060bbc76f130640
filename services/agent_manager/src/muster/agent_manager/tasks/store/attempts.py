"""Statements about attempts: find them, and move each together with its task."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import ColumnElement

from muster.agent_manager.database.conditions import any_of, none_of
from muster.agent_manager.database.rows import record
from muster.agent_manager.database.tables import attempts, consumed, replacements, tasks
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.states import LIVE, attempt_step, attempt_way, task_way
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.agent_manager.tasks.store.transitions import change_task, lock_task
from muster.common.contracts.gateway import ModelCalled
from muster.common.contracts.sandbox_log import Finished
from muster.common.storable import without_nul

_replaced = exists().where(replacements.c.task_id == attempts.c.task_id, replacements.c.epoch == attempts.c.epoch)


async def of_epoch(tx: Transaction, task_id: str, epoch: int) -> AttemptRecord | None:
    """Return the attempt of an epoch, or None."""
    return await _one(tx, (attempts.c.task_id == task_id) & (attempts.c.epoch == epoch))


async def of_sandbox(tx: Transaction, sandbox_id: str) -> tuple[TaskRecord, AttemptRecord] | None:
    """Lock the task of a sandbox's attempt and return both, or None."""
    query = select(attempts.c.task_id).where(attempts.c.sandbox_id == sandbox_id)
    task_id = (await tx.connection.execute(query)).scalar_one_or_none()
    task = None if task_id is None else await lock_task(tx, task_id)
    attempt = await _one(tx, attempts.c.sandbox_id == sandbox_id)
    return None if task is None or attempt is None else (task, attempt)


async def step(tx: Transaction, attempt: AttemptRecord, to: Any, **fields: object) -> AttemptRecord:  # noqa: ANN401 - checked by the table
    """Store the next state of an attempt. Raises `IllegalTransitionError`."""
    changed = {"state": attempt_step(attempt.state, to), **fields}
    if to not in LIVE:
        changed["ended_at"] = tx.now
    return await note(tx, attempt, **changed)


async def note(tx: Transaction, attempt: AttemptRecord, **fields: object) -> AttemptRecord:
    """Store facts about an attempt."""
    fields = without_nul(fields)
    query = update(attempts).where(attempts.c.attempt_id == attempt.attempt_id).values(**fields)
    await tx.connection.execute(query)
    tx.changed = True
    return msgspec.structs.replace(attempt, **fields)


async def created(tx: Transaction, task: TaskRecord, attempt: AttemptRecord) -> None:
    """Store that the gateway has accepted the attempt."""
    if task.epoch == attempt.epoch and attempt.state == "intent":
        await step(tx, attempt, "creating", creating_at=await tx.database_now())


async def opened(tx: Transaction, attempt: AttemptRecord, at: datetime, *, lasts_s: float, isolation: str) -> None:
    """Store that the log began `at` a time of the gateway's clock.

    The deadline is `lasts_s` from now, on the database's clock.
    """
    now = await tx.database_now()
    for to in attempt_way(attempt.state, "creating"):
        attempt = await step(tx, attempt, to, creating_at=now)
    if attempt.opened_at is None:
        await note(tx, attempt, opened_at=at, deadline=now + timedelta(seconds=lasts_s), isolation=isolation)


async def running(tx: Transaction, task: TaskRecord, attempt: AttemptRecord) -> None:
    """Store that the worker has posted its first events."""
    for to in attempt_way(attempt.state, "running"):
        attempt = await step(tx, attempt, to)
    if attempt.state == "running" and task.epoch == attempt.epoch:
        for state in task_way(task.state, "running"):
            task = await change_task(tx, task, state)


async def finished(tx: Transaction, task: TaskRecord, attempt: AttemptRecord, said: Finished) -> None:
    """Store the worker's report; the task waits for validation."""
    way = attempt_way(attempt.state, "finished")
    for to in way:
        fields = {"outcome": said.outcome, "reason": said.error} if to == "finished" else {}
        attempt = await step(tx, attempt, to, **fields)
    if not way or task.epoch != attempt.epoch:
        return
    result = {"summary": said.summary, "diff": said.diff, "error": said.error}
    for state in task_way(task.state, "validating"):
        task = await change_task(tx, task, state, **(result if state == "validating" else {}))


async def tries(tx: Transaction, task_id: str) -> int:
    """Count the attempts of a task that were not interrupted."""
    query = select(func.count()).where(attempts.c.task_id == task_id, ~attempts.c.interrupted)
    return (await tx.connection.execute(query)).scalar_one()


async def intents(tx: Transaction) -> list[tuple[TaskRecord, AttemptRecord]]:
    """Return the attempts that the gateway has not accepted yet, with their tasks."""
    query = select(attempts).where(any_of(attempts.c.state, {"intent"}), ~_replaced).order_by(attempts.c.created_at)
    found = [record(row, AttemptRecord) for row in (await tx.connection.execute(query)).mappings()]
    if not found:
        return []
    query = select(tasks).where(tasks.c.task_id.in_([attempt.task_id for attempt in found]))
    rows = (await tx.connection.execute(query)).mappings()
    by_id = {row["task_id"]: record(row, TaskRecord) for row in rows}
    return [(by_id[attempt.task_id], attempt) for attempt in found]


async def overdue(tx: Transaction, *, opened_within_s: float) -> list[tuple[AttemptRecord, bool]]:
    """Return the live attempts that took too long, each with whether it was to open (else: to finish).

    Both times were stamped by the database's clock and are compared with it: those of managers and gateways may differ.
    """
    now = func.clock_timestamp()
    unopened = attempts.c.opened_at.is_(None) & (attempts.c.creating_at < now - timedelta(seconds=opened_within_s))
    query = select(attempts).where(any_of(attempts.c.state, LIVE), ~_replaced, (attempts.c.deadline < now) | unopened)
    found = [record(row, AttemptRecord) for row in (await tx.connection.execute(query)).mappings()]
    return [(attempt, attempt.opened_at is None) for attempt in found]


async def unwanted(tx: Transaction) -> list[AttemptRecord]:
    """Return ended attempts whose sandbox is no longer needed and is not known to be deleted."""
    saga = exists().where(
        replacements.c.task_id == attempts.c.task_id,
        replacements.c.epoch == attempts.c.epoch,
        none_of(replacements.c.step, {"done"}),
    )
    in_use = exists().where(
        tasks.c.task_id == attempts.c.task_id, tasks.c.epoch == attempts.c.epoch, any_of(tasks.c.state, {"validating"})
    )
    query = select(attempts).where(
        attempts.c.sandbox_deleted_at.is_(None), none_of(attempts.c.state, LIVE), ~saga, ~in_use
    )
    return [record(row, AttemptRecord) for row in (await tx.connection.execute(query)).mappings()]


async def strays(tx: Transaction, sandboxes: Mapping[str, str]) -> list[str]:
    """Return the ids of sandboxes (given as id to task id) that should not exist. Locks no row.

    An attempt is stored before its sandbox is created. So a sandbox of a stored task without an attempt is a stray, and
    so is one that was deleted before. A sandbox of an unknown task belongs to another deployment.
    """
    query = text("""
        SELECT s.sandbox_id FROM unnest(CAST(:sandbox_ids AS text[]), CAST(:task_ids AS text[])) s (sandbox_id, task_id)
        LEFT JOIN manager.attempts a ON a.sandbox_id = s.sandbox_id
        LEFT JOIN manager.tasks t ON t.task_id = s.task_id
        WHERE a.sandbox_deleted_at IS NOT NULL OR (a.attempt_id IS NULL AND t.task_id IS NOT NULL)
    """)
    values = {"sandbox_ids": list(sandboxes), "task_ids": list(sandboxes.values())}
    return list((await tx.connection.execute(query, values)).scalars())


async def meter(tx: Transaction, stream: str, call: ModelCalled) -> None:
    """Count a model call once, however often its event is delivered."""
    row = {"stream": stream, "event_id": call.request_id, "at": tx.now}
    first = insert(consumed).values(row).on_conflict_do_nothing().returning(consumed.c.event_id)
    if (await tx.connection.execute(first)).scalar_one_or_none() is None:
        return
    counted = {
        "tokens": attempts.c.tokens + call.prompt_tokens + call.completion_tokens,
        "model_calls": attempts.c.model_calls + 1,
        "cost_usd": attempts.c.cost_usd + call.cost_usd,
    }
    await tx.connection.execute(update(attempts).where(attempts.c.sandbox_id == call.sandbox_id).values(counted))


async def forget_consumed(tx: Transaction, *, older_than: datetime) -> None:
    """Drop ids of events that are too old to be delivered again."""
    await tx.connection.execute(text("DELETE FROM manager.consumed WHERE at < :moment"), {"moment": older_than})


async def _one(tx: Transaction, which: ColumnElement[bool]) -> AttemptRecord | None:
    row = (await tx.connection.execute(select(attempts).where(which))).mappings().one_or_none()
    return None if row is None else record(row, AttemptRecord)
