"""Statements that read and list tasks."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import Table, func, select, text

from muster.agent_manager.database.conditions import any_of
from muster.agent_manager.database.rows import record
from muster.agent_manager.database.tables import attempts, tasks
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.states import PENDING
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.common.contract import encode
from muster.common.contracts.limits import LONGEST_REASON, MOST_PAGE_BYTES, SHORT_TEXT
from muster.common.contracts.tasks import TaskState
from muster.common.postgres.reading import Read, Reader, first_bytes

_SUBMIT_LOCK = 0x6D75_7374_6D67_7202
_NEAR = 128
"""More than the connections of all replicas together, which may submit at the same moment."""

Tried = tuple[TaskRecord, list[AttemptRecord]]
"""A task and its attempts, oldest first."""


def _columns(table: Table, *, short: Collection[str], most: int, without: Collection[str] = ()) -> str:
    """Return the columns of a table as SQL. Those in `short` get one character more than a view shows."""
    names = [column.name for column in table.c if column.name not in without]
    return ", ".join(f"left({name}, {most + 1}) AS {name}" if name in short else name for name in names)


def _tried(most: int) -> str:
    columns = _columns(attempts, short={"reason"}, most=most)
    return f"""json_build_array(t, ARRAY(SELECT row_to_json(a) FROM (
        SELECT {columns} FROM manager.attempts WHERE task_id = t.task_id ORDER BY epoch) a))"""  # noqa: S608 - constants


_WHOLE = _tried(LONGEST_REASON)
_ONE = Read(f"SELECT {_WHOLE} FROM manager.tasks t WHERE t.task_id = $1", Tried)  # noqa: S608 - constants
_SEVERAL = Read(
    first_bytes(
        f"""SELECT {_WHOLE} AS entry, array_position($1::text[], t.task_id::text) AS asked
        FROM manager.tasks t WHERE t.task_id = ANY ($1::text[])""",  # noqa: S608 - constants
        order="asked",
        most=MOST_PAGE_BYTES,
    ),
    tuple[Tried, int],
)
_OF_SANDBOX = Read("SELECT row_to_json(a) FROM manager.attempts a WHERE a.sandbox_id = $1", AttemptRecord)
_SHORT_SPEC = ", ".join(
    f"'{name}', left(spec ->> '{name}', {SHORT_TEXT + 1})" for name in ("objective", "test_command")
)
_ON_A_PAGE = ", ".join(
    (
        _columns(tasks, short=("summary", "error", "validation"), most=SHORT_TEXT, without={"diff", "spec"}),
        f"spec || jsonb_build_object({_SHORT_SPEC}) AS spec",
    )
)


@cache
def _page(*clauses: str) -> Read[tuple[Tried, int]]:
    """Build the statement with the given filters only, so that PostgreSQL can use an index for them."""
    asked = "".join(f" AND {clause.format(f'${number}')}" for number, clause in enumerate(clauses, 4))
    rows = f"""
        SELECT {_tried(SHORT_TEXT)} AS entry, t.created_at, t.task_id FROM (
            SELECT {_ON_A_PAGE} FROM manager.tasks WHERE (created_at, task_id) < ($1, $2){asked}
            ORDER BY created_at DESC, task_id DESC LIMIT $3
        ) t"""  # noqa: S608 - constants
    return Read(first_bytes(rows, order="created_at DESC, task_id DESC", most=MOST_PAGE_BYTES), tuple[Tried, int])


_AFTER_ALL = (datetime.max.replace(tzinfo=UTC), "")


async def read(tx: Transaction, task_id: str) -> TaskRecord | None:
    """Return one task without locking it, or None."""
    row = (await tx.connection.execute(select(tasks).where(tasks.c.task_id == task_id))).mappings().one_or_none()
    return None if row is None else record(row, TaskRecord)


async def with_attempts(reader: Reader, task_id: str) -> Tried | None:
    """Return one task with its attempts, or None."""
    return await reader.one(_ONE, task_id)


async def attempt_of(reader: Reader, sandbox_id: str) -> AttemptRecord | None:
    """Return the attempt that a sandbox was created for, or None."""
    return await reader.one(_OF_SANDBOX, sandbox_id)


async def several(reader: Reader, task_ids: Sequence[str]) -> list[Tried]:
    """Return the tasks of `task_ids` that exist, in that order, as many as fit into one reply."""
    return [tried for tried, _ in await reader.all(_SEVERAL, task_ids)]


async def page(
    reader: Reader,
    *,
    state: TaskState | None,
    project: str | None = None,
    labels: Mapping[str, str] | None = None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> tuple[list[Tried], bool]:
    """Return tasks older than `before`, newest first, and whether there are more.

    Diffs are left out and long texts are shortened. Returns at most `limit` tasks, and at most as many as fit into one
    reply.
    """
    has = encode(labels).decode() if labels else None
    wanted = {"state = {}": state, "project = {}": project, "labels @> {}::jsonb": has}
    given = {clause: value for clause, value in wanted.items() if value is not None}
    found = await reader.all(_page(*given), *(before or _AFTER_ALL), limit + 1, *given.values())
    on_page = [tried for tried, _ in found[:limit]]
    return on_page, bool(found) and found[0][1] > len(on_page)


async def attempts_of(tx: Transaction, task_id: str) -> list[AttemptRecord]:
    """Return the attempts of a task, oldest first, as this transaction sees them."""
    query = select(attempts).where(attempts.c.task_id == task_id).order_by(attempts.c.epoch)
    return [record(row, AttemptRecord) for row in await _rows(tx, query)]


async def room(tx: Transaction, *, most: int) -> bool:
    """Return whether one more task may wait. Near the limit submissions take a lock, so that the limit is exact."""
    query = select(func.count()).select_from(tasks).where(any_of(tasks.c.state, PENDING))
    if (await tx.connection.execute(query)).scalar_one() < most - _NEAR:
        return True
    await tx.connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SUBMIT_LOCK})
    return (await tx.connection.execute(query)).scalar_one() < most


async def states(tx: Transaction, task_ids: Sequence[str], *, project: str | None = None) -> dict[str, TaskState]:
    """Return the state of each of these tasks that exists; with `project`, only of tasks in that project."""
    query = select(tasks.c.task_id, tasks.c.state).where(tasks.c.task_id.in_(task_ids))
    if project is not None:
        query = query.where(tasks.c.project == project)
    return {row["task_id"]: row["state"] for row in await _rows(tx, query)}


async def validating(tx: Transaction) -> list[str]:
    """Return the ids of tasks whose result is not validated yet."""
    query = select(tasks.c.task_id).where(any_of(tasks.c.state, {"validating"})).order_by(tasks.c.updated_at)
    return [row["task_id"] for row in await _rows(tx, query)]


async def settled(tx: Transaction) -> list[str]:
    """Return blocked tasks whose dependencies all completed, or of which one failed, was cancelled or deleted."""
    query = text("""
        SELECT t.task_id FROM manager.tasks t
        CROSS JOIN LATERAL unnest(t.depends_on) AS w(task_id)
        LEFT JOIN manager.tasks d ON d.task_id = w.task_id
        WHERE t.state = 'blocked' GROUP BY t.task_id
        HAVING bool_and(d.state = 'completed') OR bool_or(d.state IN ('failed', 'cancelled') OR d.task_id IS NULL)
    """)
    return [row["task_id"] for row in await _rows(tx, query)]


async def _rows(tx: Transaction, query: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any kind of statement
    return [dict(row) for row in (await tx.connection.execute(query)).mappings()]
