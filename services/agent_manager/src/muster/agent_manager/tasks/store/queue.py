"""Claims the next waiting task and opens an attempt for it."""

from datetime import datetime

import msgspec
from sqlalchemy import insert, text

from muster.agent_manager.database.tables import attempts
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import TAKES_TASKS
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.tasks import RANK, TaskRecord
from muster.agent_manager.tasks.store.transitions import change_task, lock_task

_CLAIM_LOCK = 0x6D75_7374_6D67_7203
_RANKS = " ".join(f"WHEN '{priority}' THEN {rank}" for priority, rank in RANK.items())
_LIVE = "SELECT count(*) FROM manager.attempts WHERE state IN ('intent', 'creating', 'running')"
_TAKES = ", ".join(repr(state) for state in sorted(TAKES_TASKS))
_TAKING = f"a.deleted_at IS NULL AND a.mode = 'sandbox' AND a.desired = 'running' AND a.state IN ({_TAKES})"
# The same rule as `domain.tasks.turn`; a task that is being changed right now is left for the next look, and one whose
# agent takes none lets those behind it pass. IN, not EXISTS: the agents are looked through once, not once per task.
_NEXT = f"""
    SELECT task_id FROM manager.tasks t WHERE state = 'queued' AND CASE WHEN t.wanted_agent_id IS NULL
        THEN t.package IN (SELECT a.package FROM manager.agents a WHERE {_TAKING})
        ELSE t.wanted_agent_id IN (SELECT a.agent_id FROM manager.agents a WHERE {_TAKING}) END
    ORDER BY greatest(0, CASE priority {_RANKS} END
        - floor(extract(epoch FROM CAST(:now AS timestamptz) - created_at) / :ageing_s)), created_at, task_id
    LIMIT 1 FOR UPDATE OF t SKIP LOCKED
"""  # noqa: S608 - constants


async def next_task(tx: Transaction, *, max_running: int, ageing_s: float) -> TaskRecord | None:
    """Lock and return the next task; `None` if no task waits or the limit of running attempts is reached."""
    await tx.connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _CLAIM_LOCK})
    if (await tx.connection.execute(text(_LIVE))).scalar_one() >= max_running:
        return None
    chosen = await tx.connection.execute(text(_NEXT), {"now": tx.now, "ageing_s": ageing_s})
    task_id = chosen.scalar_one_or_none()
    return None if task_id is None else await lock_task(tx, task_id)


async def open_attempt(tx: Transaction, task: TaskRecord, agent_id: str) -> AttemptRecord:
    """Store an attempt with the next epoch and new ids, before anything is created. The task becomes `assigned`."""
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
