"""SQL statements about replacements: one row for each (task, epoch) that the manager ends."""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from muster.agent_manager.database.conditions import none_of
from muster.agent_manager.database.rows import record
from muster.agent_manager.database.tables import replacements
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.replacements import Ends, ReplacementSaga, Step, Then, step_after
from muster.agent_manager.tasks.domain.shortened_texts import shortened
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.agent_manager.tasks.store import attempts
from muster.agent_manager.tasks.store.transitions import change_task
from muster.common.contracts.limits import LONGEST_REASON
from muster.common.contracts.model_calls import Limit
from muster.common.storable_values import without_nul


async def begin(
    tx: Transaction,
    task: TaskRecord,
    attempt: AttemptRecord,
    *,
    reason: str,
    ends: Ends,
    then: Then,
    decision_id: str | None = None,
    limit: Limit | None = None,
) -> bool:
    """Store a replacement that will end the epoch of an attempt.

    `limit` is the limit of the task that ends the attempt. Return False if the epoch is not live, or has a replacement
    already. The caller must have locked the task.
    """
    if task.epoch != attempt.epoch or not attempt.live:
        return False
    reason = shortened(reason, LONGEST_REASON)
    row = {
        "task_id": task.task_id,
        "epoch": attempt.epoch,
        "agent_id": attempt.agent_id,
        "sandbox_id": attempt.sandbox_id,
        "reason": reason,
        "decision_id": decision_id,
        "ends": ends,
        "then": then,
        "step": "fence",
        "created_at": tx.now,
    }
    first = insert(replacements).values(without_nul(row)).on_conflict_do_nothing().returning(replacements.c.epoch)
    if (await tx.connection.execute(first)).scalar_one_or_none() is None:
        return False
    await attempts.note(tx, attempt, reason=reason, reached_limit=limit)
    if then == "retry":
        await change_task(tx, task, "retrying", reason=reason, error=reason)
    return True


async def of_epoch(tx: Transaction, task_id: str, epoch: int) -> ReplacementSaga | None:
    """Return the replacement of an epoch, or None. The caller's lock on the task keeps the replacement unchanged."""
    which = (replacements.c.task_id == task_id) & (replacements.c.epoch == epoch)
    row = (await tx.connection.execute(select(replacements).where(which))).mappings().one_or_none()
    return None if row is None else record(row, ReplacementSaga)


async def left(tx: Transaction) -> list[ReplacementSaga]:
    """Return every replacement of an attempt that is not finished, oldest first."""
    query = select(replacements).where(none_of(replacements.c.step, {"done"})).order_by(replacements.c.created_at)
    return [record(row, ReplacementSaga) for row in (await tx.connection.execute(query)).mappings()]


async def done(
    tx: Transaction, saga: ReplacementSaga, step: Step, *, last: bool = False, evidence: dict[str, Any] | None = None
) -> bool:
    """Store that a step of a replacement is done; return False if this is stored already.

    With `last`, the steps after `step` are skipped.
    """
    following = "done" if last else step_after(step)
    fields: dict[str, object] = {"step": following}
    if evidence is not None:
        fields["evidence"] = without_nul(evidence)
    if following == "done":
        fields["finished_at"] = tx.now
    query = (
        update(replacements)
        .where(replacements.c.task_id == saga.task_id, replacements.c.epoch == saga.epoch, replacements.c.step == step)
        .values(**fields)
        .returning(replacements.c.epoch)
    )
    tx.changed = True
    return (await tx.connection.execute(query)).scalar_one_or_none() is not None
