"""SQL statements that delete old rows in batches; an index finds the rows of each batch.

Ages are measured by the database's clock, so a manager whose clock is fast deletes nothing too early. An age of 0 days
means that rows are kept permanently; callers do not call these functions with 0.
"""

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from muster.agent_manager.database.conditions import any_of, none_of
from muster.agent_manager.database.tables import (
    agent_commands,
    agent_launches,
    agents,
    attempts,
    outbox,
    replacements,
    tasks,
)
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.tasks.domain.states import LIVE, TASK_ENDS

NEWEST_LAUNCHES: Final = 10
"""Launches of each agent that are kept at any age: they decide whether an agent that failed is started again."""


async def ended_tasks(tx: Transaction, *, days: int, most: int) -> int:
    """Delete at most `most` tasks that ended over `days` days ago, and their attempts; return the number of tasks."""
    ids = list((await tx.connection.execute(_old_tasks(days, most))).scalars())
    for table in (replacements, attempts, tasks) if ids else ():
        await tx.connection.execute(sa.delete(table).where(table.c.task_id.in_(ids)))
    return len(ids)


async def ended_launches(tx: Transaction, *, days: int, most: int) -> int:
    """Delete at most `most` launches that ended over `days` days ago; return their number. Keep 10 of each agent."""
    launch, agent = agent_launches, agents
    old = (
        sa.select(launch.c.agent_id, launch.c.launch)
        .join(agent, agent.c.agent_id == launch.c.agent_id)
        .where(launch.c.ended_at < _days_ago(days), launch.c.launch <= agent.c.launch - NEWEST_LAUNCHES)
        .order_by(launch.c.ended_at)
        .limit(most)
    )
    query = sa.delete(launch).where(sa.tuple_(launch.c.agent_id, launch.c.launch).in_(old))
    return (await tx.connection.execute(query)).rowcount


async def commands(tx: Transaction, *, days: int, most: int) -> int:
    """Delete at most `most` command ids that are older than `days` days; return the count.

    After this deletion, a command with the same id is executed as a new command.
    """
    command = agent_commands
    old = sa.select(command.c.command_id).where(command.c.at < _days_ago(days)).order_by(command.c.at).limit(most)
    query = sa.delete(command).where(command.c.command_id.in_(old))
    return (await tx.connection.execute(query)).rowcount


def _old_tasks(days: int, most: int) -> sa.Select[str]:
    """Return the statement that locks the old tasks that can be deleted.

    A task is kept while its sandbox is not deleted, its replacement is not finished, or its event is not published. A
    task is also kept while a task that depends on it has not ended.
    """
    unfinished = attempts.c.sandbox_deleted_at.is_(None) | any_of(attempts.c.state, LIVE)
    waiting = tasks.alias("waiting")
    awaited = sa.select(sa.func.unnest(waiting.c.depends_on)).where(none_of(waiting.c.state, TASK_ENDS))
    return (
        sa.select(tasks.c.task_id)
        .where(
            any_of(tasks.c.state, TASK_ENDS),
            tasks.c.updated_at < _days_ago(days),
            ~sa.exists().where(attempts.c.task_id == tasks.c.task_id, unfinished),
            ~sa.exists().where(replacements.c.task_id == tasks.c.task_id, none_of(replacements.c.step, {"done"})),
            ~sa.exists().where(outbox.c.entity_id == tasks.c.task_id),
            tasks.c.task_id.not_in(awaited),
        )
        .order_by(tasks.c.updated_at)
        .limit(most)
        .with_for_update(of=tasks, skip_locked=True)
    )


def _days_ago(days: int) -> sa.ColumnElement[datetime]:
    return sa.func.now() - timedelta(days=days)
