"""Chooses the next waiting task by priority and age, and opens an attempt for the task."""

from datetime import datetime

import msgspec
from sqlalchemy import Select, and_, case, extract, func, insert, literal, select

from muster.agent_manager.database.conditions import any_of
from muster.agent_manager.database.tables import agents, attempts, tasks
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import TAKES_TASKS
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.states import LIVE
from muster.agent_manager.tasks.domain.tasks import RANK, TaskRecord
from muster.agent_manager.tasks.store.transitions import change_task, lock_task

_CLAIM_LOCK = 0x6D75_7374_6D67_7203
_LIVE = select(func.count()).select_from(attempts).where(any_of(attempts.c.state, LIVE))


def _next(now: datetime, ageing_s: float) -> Select[str]:
    """Return the statement that chooses the next task, by the same rule as `domain.tasks.turn`.

    The statement skips a task whose row is locked; a later call may choose this task. It also skips a task if no agent
    takes the task now, so that later tasks need not wait.
    """
    taking = and_(
        agents.c.deleted_at.is_(None),
        agents.c.mode == "sandbox",
        agents.c.desired == "running",
        any_of(agents.c.state, TAKES_TASKS),
    )
    # With IN instead of EXISTS, PostgreSQL reads the agents once for all tasks, and not once for each task.
    by_package = tasks.c.package.in_(select(agents.c.package).where(taking))
    by_agent = tasks.c.wanted_agent_id.in_(select(agents.c.agent_id).where(taking))
    rank = case({str(priority): rank for priority, rank in RANK.items()}, value=tasks.c.priority)
    waited_s = extract("epoch", literal(now) - tasks.c.created_at)
    turn = func.greatest(0, rank - func.floor(waited_s / ageing_s))
    return (
        select(tasks.c.task_id)
        .where(any_of(tasks.c.state, {"queued"}))
        .where(case((tasks.c.wanted_agent_id.is_(None), by_package), else_=by_agent))
        .order_by(turn, tasks.c.created_at, tasks.c.task_id)
        .limit(1)
        .with_for_update(of=tasks, skip_locked=True)
    )


async def next_task(tx: Transaction, *, max_running: int, ageing_s: float) -> TaskRecord | None:
    """Lock and return the next task to start; None if no task can start or the limit of running attempts is reached."""
    await tx.connection.execute(select(func.pg_advisory_xact_lock(_CLAIM_LOCK)))
    if (await tx.connection.execute(_LIVE)).scalar_one() >= max_running:
        return None
    task_id = (await tx.connection.execute(_next(tx.now, ageing_s))).scalar_one_or_none()
    return None if task_id is None else await lock_task(tx, task_id)


async def open_attempt(tx: Transaction, task: TaskRecord, agent_id: str) -> AttemptRecord:
    """Store an attempt with the next epoch and new ids before its sandbox is created; the task becomes `assigned`."""
    attempt = AttemptRecord(
        attempt_id=tx.new_id("att"),
        task_id=task.task_id,
        epoch=task.epoch + 1,
        agent_id=agent_id,
        sandbox_id=tx.new_id("sbx"),
        conversation_id=tx.new_id("cnv"),
        state="intent",
        reason=None,
        exit_code=None,
        outcome=None,
        tokens=0,
        model_calls=0,
        cost_usd=0.0,
        created_at=tx.now,
        creating_at=None,
        opened_at=None,
        deadline=None,
        ended_at=None,
        sandbox_deleted_at=None,
        interrupted=False,
    )
    await tx.connection.execute(insert(attempts).values(**msgspec.to_builtins(attempt, builtin_types=(datetime,))))
    await change_task(
        tx,
        task,
        "assigned",
        epoch=attempt.epoch,
        agent_id=agent_id,
        sandbox_id=attempt.sandbox_id,
        conversation_id=attempt.conversation_id,
    )
    return attempt
