"""Statements that delete old rows, a batch at a time; an index finds each batch.

Ages are measured on the database's clock, so a manager whose own clock is fast deletes nothing too early. Callers do
not call these functions for an age of 0 days, which means "keep for ever".
"""

from typing import Final

import sqlalchemy as sa

from muster.agent_manager.database.tables import attempts, replacements, tasks
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.tasks.domain.states import LIVE, TASK_ENDS

NEWEST_LAUNCHES: Final = 10
"""Launches of each agent that are kept however old: they decide whether an agent that failed is started again."""


def _written(values: frozenset[str]) -> str:
    return ", ".join(repr(value) for value in sorted(values))


# A task is deleted only when nothing about it is still to be done: a sandbox to delete, a replacement to finish, an
# event to publish. A task that another task depends on stays as long as that one waits.
_TASKS = sa.text(f"""
    SELECT t.task_id FROM manager.tasks t
    WHERE t.state IN ({_written(TASK_ENDS)}) AND t.updated_at < now() - make_interval(days => :days)
    AND NOT EXISTS (SELECT FROM manager.attempts a WHERE a.task_id = t.task_id
        AND (a.sandbox_deleted_at IS NULL OR a.state IN ({_written(LIVE)})))
    AND NOT EXISTS (SELECT FROM manager.replacements r WHERE r.task_id = t.task_id AND r.step <> 'done')
    AND NOT EXISTS (SELECT FROM manager.outbox o WHERE o.entity_id = t.task_id)
    AND t.task_id NOT IN (
        SELECT unnest(w.depends_on) FROM manager.tasks w WHERE w.state NOT IN ({_written(TASK_ENDS)}))
    ORDER BY t.updated_at LIMIT :most FOR UPDATE OF t SKIP LOCKED
""")  # noqa: S608 - constants
_LAUNCHES = sa.text(f"""
    DELETE FROM manager.agent_launches WHERE (agent_id, launch) IN (
        SELECT l.agent_id, l.launch FROM manager.agent_launches l JOIN manager.agents a ON a.agent_id = l.agent_id
        WHERE l.ended_at < now() - make_interval(days => :days) AND l.launch <= a.launch - {NEWEST_LAUNCHES}
        ORDER BY l.ended_at LIMIT :most)
""")  # noqa: S608 - constants
_COMMANDS = sa.text("""
    DELETE FROM manager.agent_commands WHERE command_id IN (
        SELECT command_id FROM manager.agent_commands WHERE at < now() - make_interval(days => :days)
        ORDER BY at LIMIT :most)
""")


async def ended_tasks(tx: Transaction, *, days: int, most: int) -> int:
    """Delete tasks that ended more than `days` ago, with their attempts and replacements; return how many tasks."""
    ids = list((await tx.connection.execute(_TASKS, {"days": days, "most": most})).scalars())
    for table in (replacements, attempts, tasks) if ids else ():
        await tx.connection.execute(sa.delete(table).where(table.c.task_id.in_(ids)))
    return len(ids)


async def ended_launches(tx: Transaction, *, days: int, most: int) -> int:
    """Delete launches that ended more than `days` ago, but the newest of each agent; return how many."""
    return (await tx.connection.execute(_LAUNCHES, {"days": days, "most": most})).rowcount


async def commands(tx: Transaction, *, days: int, most: int) -> int:
    """Forget which commands were obeyed more than `days` ago; return how many. The same id then is a new command."""
    return (await tx.connection.execute(_COMMANDS, {"days": days, "most": most})).rowcount
