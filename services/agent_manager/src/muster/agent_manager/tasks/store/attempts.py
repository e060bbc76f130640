"""SQL statements that read attempts, and that change the state of an attempt together with its task."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Text, case, column, delete, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.sql.elements import ColumnElement

from muster.agent_manager.database.conditions import any_of, none_of
from muster.agent_manager.database.rows import record
from muster.agent_manager.database.tables import attempts, consumed, replacements, tasks
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.limits import took_too_long, why_it_ended
from muster.agent_manager.tasks.domain.states import LIVE, attempt_step, attempt_way, task_way
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.agent_manager.tasks.store.transitions import change_task, lock_task
from muster.common.contracts.model_calls import ModelCalled, ModelFailed
from muster.common.contracts.sandbox_log import Finished
from muster.common.storable_values import without_nul

_replaced = exists().where(replacements.c.task_id == attempts.c.task_id, replacements.c.epoch == attempts.c.epoch)


async def of_epoch(tx: Transaction, task_id: str, epoch: int) -> AttemptRecord | None:
    """Return the attempt of a task with this epoch (fencing number), or None."""
    return await _one(tx, (attempts.c.task_id == task_id) & (attempts.c.epoch == epoch))


async def of_sandbox(tx: Transaction, sandbox_id: str) -> tuple[TaskRecord, AttemptRecord] | None:
    """Lock the task whose attempt has this sandbox; return the task and the attempt, or None."""
    query = select(attempts.c.task_id).where(attempts.c.sandbox_id == sandbox_id)
    task_id = (await tx.connection.execute(query)).scalar_one_or_none()
    task = None if task_id is None else await lock_task(tx, task_id)
    attempt = await _one(tx, attempts.c.sandbox_id == sandbox_id)
    return None if task is None or attempt is None else (task, attempt)


async def step(tx: Transaction, attempt: AttemptRecord, to: Any, **fields: object) -> AttemptRecord:  # noqa: ANN401 - checked by the table
    """Store the next state of an attempt. Raises `IllegalTransitionError` if the transition is not allowed."""
    changed = {"state": attempt_step(attempt.state, to), **fields}
    if to not in LIVE:
        changed["ended_at"] = tx.now
    return await note(tx, attempt, **changed)


async def note(tx: Transaction, attempt: AttemptRecord, **fields: object) -> AttemptRecord:
    """Store new values of an attempt's columns, with NUL characters removed; return the changed attempt."""
    fields = without_nul(fields)
    query = update(attempts).where(attempts.c.attempt_id == attempt.attempt_id).values(**fields)
    await tx.connection.execute(query)
    tx.changed = True
    return msgspec.structs.replace(attempt, **fields)


async def created(tx: Transaction, task: TaskRecord, attempt: AttemptRecord) -> None:
    """Store that the sandbox gateway has accepted the request to create the attempt's sandbox."""
    if task.epoch == attempt.epoch and attempt.state == "intent":
        await step(tx, attempt, "creating", creating_at=await tx.database_now())


async def opened(tx: Transaction, attempt: AttemptRecord, at: datetime, *, lasts_s: float, isolation: str) -> None:
    """Store that the sandbox log of an attempt began at the time `at` of the gateway's clock.

    The deadline of the attempt is `lasts_s` seconds from now, measured by the database's clock.
    """
    now = await tx.database_now()
    for to in attempt_way(attempt.state, "creating"):
        attempt = await step(tx, attempt, to, creating_at=now)
    if attempt.opened_at is None:
        await note(tx, attempt, opened_at=at, deadline=now + timedelta(seconds=lasts_s), isolation=isolation)


async def running(tx: Transaction, task: TaskRecord, attempt: AttemptRecord) -> None:
    """Store that the worker of an attempt has posted its first events; the task becomes `running`."""
    for to in attempt_way(attempt.state, "running"):
        attempt = await step(tx, attempt, to)
    if attempt.state == "running" and task.epoch == attempt.epoch:
        for state in task_way(task.state, "running"):
            task = await change_task(tx, task, state)


async def finished(tx: Transaction, task: TaskRecord, attempt: AttemptRecord, said: Finished) -> None:
    """Store the report of a worker that has finished; its task becomes `validating`."""
    way = attempt_way(attempt.state, "finished")
    # The gateway's word about a limit is stored already. Only the worker knows that its time is over.
    limit = attempt.reached_limit or ("time" if said.limit == "time" else None)
    if said.limit == "time" and attempt.model_failure is not None:
        error = took_too_long(task.spec.time_limit_s, attempt.model_failure)
    else:
        error = why_it_ended(said.error, attempt.model_failure if said.outcome != "success" else None)
    for to in way:
        report = {"outcome": said.outcome, "reason": error, "reached_limit": limit, "question": said.question}
        attempt = await step(tx, attempt, to, **(report if to == "finished" else {}))
    if not way or task.epoch != attempt.epoch:
        return
    result = {
        "summary": said.summary,
        "diff": said.diff,
        "base_commit": said.base,
        "error": error,
        "reached_limit": limit,
    }
    for state in task_way(task.state, "validating"):
        task = await change_task(tx, task, state, **(result if state == "validating" else {}))


async def tries(tx: Transaction, task_id: str) -> int:
    """Return the number of attempts of a task, without those that ended because their host shut down."""
    query = select(func.count()).where(attempts.c.task_id == task_id, ~attempts.c.interrupted)
    return (await tx.connection.execute(query)).scalar_one()


async def intents(tx: Transaction) -> list[tuple[TaskRecord, AttemptRecord]]:
    """Return the attempts that the sandbox gateway has not accepted yet, each with its task."""
    query = select(attempts).where(any_of(attempts.c.state, {"intent"}), ~_replaced).order_by(attempts.c.created_at)
    found = [record(row, AttemptRecord) for row in (await tx.connection.execute(query)).mappings()]
    if not found:
        return []
    query = select(tasks).where(tasks.c.task_id.in_([attempt.task_id for attempt in found]))
    rows = (await tx.connection.execute(query)).mappings()
    by_id = {row["task_id"]: record(row, TaskRecord) for row in rows}
    return [(by_id[attempt.task_id], attempt) for attempt in found]


async def overdue(tx: Transaction, *, opened_within_s: float) -> list[tuple[AttemptRecord, bool]]:
    """Return the live attempts that took too long, each with True if its sandbox log has not begun, else False.

    All compared times are of the database's clock, because the clocks of managers and gateways may differ.
    """
    now = func.clock_timestamp()
    unopened = attempts.c.opened_at.is_(None) & (attempts.c.creating_at < now - timedelta(seconds=opened_within_s))
    query = select(attempts).where(any_of(attempts.c.state, LIVE), ~_replaced, (attempts.c.deadline < now) | unopened)
    found = [record(row, AttemptRecord) for row in (await tx.connection.execute(query)).mappings()]
    return [(attempt, attempt.opened_at is None) for attempt in found]


async def wait_longer(tx: Transaction, attempt: AttemptRecord, *, most_s: float) -> bool:
    """Count the time to open a sandbox anew. Return False if the attempt is older than `most_s` seconds."""
    now = await tx.database_now()
    if attempt.opened_at is not None or now - attempt.created_at > timedelta(seconds=most_s):
        return False
    await note(tx, attempt, creating_at=now)
    return True


async def unwanted(tx: Transaction) -> list[AttemptRecord]:
    """Return the ended attempts whose sandbox is no longer needed and not recorded as deleted."""
    saga = exists().where(
        replacements.c.task_id == attempts.c.task_id,
        replacements.c.epoch == attempts.c.epoch,
        none_of(replacements.c.step, {"done"}),
    )
    in_use = exists().where(
        tasks.c.task_id == attempts.c.task_id,
        tasks.c.epoch == attempts.c.epoch,
        any_of(tasks.c.state, {"validating"}),
        tasks.c.delivery.is_(None),
    )
    query = select(attempts).where(
        attempts.c.sandbox_deleted_at.is_(None), none_of(attempts.c.state, LIVE), ~saga, ~in_use
    )
    return [record(row, AttemptRecord) for row in (await tx.connection.execute(query)).mappings()]


async def strays(tx: Transaction, sandboxes: Mapping[str, str]) -> list[str]:
    """Return the ids of the sandboxes that must not exist; the argument maps sandbox ids to task ids. Locks no row.

    An attempt is stored before its sandbox is created. So a sandbox of a stored task must not exist if no attempt with
    this sandbox is stored. A sandbox whose deletion is stored must not exist either. A sandbox of an unknown task
    belongs to another deployment.
    """
    sandbox = (
        func.unnest(literal(list(sandboxes), ARRAY(Text)), literal(list(sandboxes.values()), ARRAY(Text)))
        .table_valued(column("sandbox_id", Text), column("task_id", Text))
        .render_derived(name="sandbox")
    )
    deleted = attempts.c.sandbox_deleted_at.is_not(None)
    without_attempt = attempts.c.attempt_id.is_(None) & tasks.c.task_id.is_not(None)
    query = (
        select(sandbox.c.sandbox_id)
        .outerjoin(attempts, attempts.c.sandbox_id == sandbox.c.sandbox_id)
        .outerjoin(tasks, tasks.c.task_id == sandbox.c.task_id)
        .where(deleted | without_attempt)
    )
    return list((await tx.connection.execute(query)).scalars())


async def meter(tx: Transaction, stream: str, call: ModelCalled) -> None:
    """Add the tokens and the cost of a model call to its attempt once, even if the event is delivered repeatedly."""
    row = {"stream": stream, "event_id": call.request_id, "at": tx.now}
    first = insert(consumed).values(row).on_conflict_do_nothing().returning(consumed.c.event_id)
    if (await tx.connection.execute(first)).scalar_one_or_none() is None:
        return
    counted = {
        "tokens": attempts.c.tokens + call.prompt_tokens + call.completion_tokens,
        "model_calls": attempts.c.model_calls + 1,
        "cost_usd": attempts.c.cost_usd + call.cost_usd,
        "unpriced_calls": attempts.c.unpriced_calls + int(not call.priced),
        **_last_call(call.used.steps, call.failed),
    }
    # With a second update of the same row, PostgreSQL would check the foreign key again and lock the row of the task.
    await tx.connection.execute(update(attempts).where(attempts.c.sandbox_id == call.sandbox_id).values(counted))


async def last_call(tx: Transaction, sandbox_id: str, step: int, failed: ModelFailed | None) -> None:
    """Store whether the last model call of an attempt failed. A call before the last stored one changes nothing.

    The calls are read from two streams, the log of the sandbox and the records of model calls, in any order. The caller
    must have locked the task.
    """
    query = update(attempts).where(attempts.c.sandbox_id == sandbox_id).values(_last_call(step, failed))
    await tx.connection.execute(query)
    tx.changed = True


def _last_call(step: int, failed: ModelFailed | None) -> dict[str, Any]:
    """Return the new values of an attempt's columns about its last model call, unless a later call is stored."""
    is_last, column = attempts.c.last_model_step <= step, attempts.c.model_failure
    told = literal(without_nul(msgspec.to_builtins(failed)), column.type)
    return {
        "last_model_step": func.greatest(attempts.c.last_model_step, step),
        "model_failure": case((is_last, told), else_=column),
    }


async def forget_consumed(tx: Transaction, *, older_than: datetime) -> None:
    """Delete stored event ids that are older than `older_than`: these events are not delivered again."""
    await tx.connection.execute(delete(consumed).where(consumed.c.at < older_than))


async def _one(tx: Transaction, which: ColumnElement[bool]) -> AttemptRecord | None:
    row = (await tx.connection.execute(select(attempts).where(which))).mappings().one_or_none()
    return None if row is None else record(row, AttemptRecord)
