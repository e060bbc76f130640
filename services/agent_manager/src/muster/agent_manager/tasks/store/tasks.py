"""SQL statements that read and list tasks with their attempts."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import chain
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Subquery,
    Table,
    Text,
    bindparam,
    column,
    func,
    or_,
    select,
    true,
)

from muster.agent_manager.database.conditions import any_of
from muster.agent_manager.database.paging import newest_before, page_values
from muster.agent_manager.database.rows import fields, record
from muster.agent_manager.database.tables import attempts, tasks
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.states import PENDING, TASK_ENDS
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.common.contracts.limits import LONGEST_REASON, MOST_PAGE_BYTES, SHORT_TEXT
from muster.common.contracts.tasks import TaskState
from muster.common.postgres.reading import Read, Reader, Rows, first_bytes, json_rows

_SUBMIT_LOCK = 0x6D75_7374_6D67_7202
LONGEST_LATE_DELIVERY: Final = timedelta(days=1)
"""The time after a request to deliver a result afterwards in which a manager that was down continues the delivery."""
_NEAR = 128
"""More than all replicas together can submit at the same moment: each submission uses one database connection."""

Tried = tuple[TaskRecord, list[AttemptRecord]]
"""A task and its attempts, oldest first."""
_Column = ColumnElement[Any]


def _columns(table: Table, *, short: Collection[str], most: int, without: Collection[str] = ()) -> list[_Column]:
    """Return the columns of a table. Texts in the columns `short` are cut to `most` + 1 characters."""
    return [
        func.left(column, most + 1).label(column.key) if column.key in short else column
        for column in fields(table)
        if column.key not in without
    ]


def _tried(task: Subquery, most: int) -> _Column:
    """Return the SQL expression for a task and its attempts as a JSON array."""
    own = select(*_columns(attempts, short={"reason"}, most=most)).where(attempts.c.task_id == task.c.task_id)
    attempt = own.order_by(attempts.c.epoch).correlate(task).subquery("a")
    each = select(func.row_to_json(attempt.table_valued())).scalar_subquery()
    return func.json_build_array(task.table_valued(), func.array(each))


def _one() -> Rows:
    task = select(*fields(tasks)).where(tasks.c.task_id == bindparam("task_id")).subquery("t")
    return select(_tried(task, LONGEST_REASON))


_ONE = Read(_one(), Tried)
_OF_SANDBOX = Read(
    json_rows(select(*fields(attempts)).where(attempts.c.sandbox_id == bindparam("sandbox_id"))), AttemptRecord
)
_SHORT_SPEC = {name: func.left(tasks.c.spec[name].astext, SHORT_TEXT + 1) for name in ("objective", "test_command")}
_ON_A_PAGE = (
    *_columns(tasks, short=("summary", "error", "validation"), most=SHORT_TEXT, without={"diff", "spec"}),
    tasks.c.spec.concat(func.jsonb_build_object(*chain.from_iterable(_SHORT_SPEC.items()))).label("spec"),
)
_FILTERS: Final = {
    "state": tasks.c.state == bindparam("state"),
    "project": tasks.c.project == bindparam("project"),
    "labels": tasks.c.labels.contains(bindparam("labels")),
}


@cache
def _page(*filters: str) -> Read[tuple[Tried, int]]:
    """Build the statement for a page of tasks with only the given filters, so that PostgreSQL can use an index."""
    filtered = select(*_ON_A_PAGE).where(*(_FILTERS[name] for name in filters))
    task = newest_before(filtered, tasks.c.created_at, tasks.c.task_id).subquery("t")
    entries = select(_tried(task, SHORT_TEXT).label("entry"), task.c.created_at, task.c.task_id)
    page = first_bytes(entries, newest_by=("created_at", "task_id"), most=MOST_PAGE_BYTES)
    return Read(page, tuple[Tried, int])


async def read(tx: Transaction, task_id: str) -> TaskRecord | None:
    """Return the task with this id without locking it, or None."""
    row = (await tx.connection.execute(select(tasks).where(tasks.c.task_id == task_id))).mappings().one_or_none()
    return None if row is None else record(row, TaskRecord)


async def with_attempts(reader: Reader, task_id: str) -> Tried | None:
    """Return the task with this id and all its attempts, or None."""
    return await reader.one(_ONE, task_id=task_id)


async def attempt_of(reader: Reader, sandbox_id: str) -> AttemptRecord | None:
    """Return the attempt that this sandbox was created for, or None."""
    return await reader.one(_OF_SANDBOX, sandbox_id=sandbox_id)


async def page(
    reader: Reader,
    *,
    state: TaskState | None,
    project: str | None = None,
    labels: Mapping[str, str] | None = None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> tuple[list[Tried], bool]:
    """Return tasks created before `before`, newest first, and True if older tasks remain.

    Diffs are omitted and long texts are shortened. The page has at most `limit` tasks, and at most as many as fit into
    one reply.
    """
    wanted = {"state": state, "project": project, "labels": labels or None}
    given = {name: value for name, value in wanted.items() if value is not None}
    found = await reader.all(_page(*given), **given, **page_values(before, limit))
    on_page = [tried for tried, _ in found[:limit]]
    return on_page, bool(found) and found[0][1] > len(on_page)


async def attempts_of(tx: Transaction, task_id: str) -> list[AttemptRecord]:
    """Return the attempts of a task, oldest first, including changes of this transaction."""
    query = select(attempts).where(attempts.c.task_id == task_id).order_by(attempts.c.epoch)
    return [record(row, AttemptRecord) for row in await _rows(tx, query)]


async def room(tx: Transaction, *, most: int) -> bool:
    """Return whether one more task may wait. Near the limit a lock serializes submissions, so the limit is exact."""
    query = select(func.count()).select_from(tasks).where(any_of(tasks.c.state, PENDING))
    if (await tx.connection.execute(query)).scalar_one() < most - _NEAR:
        return True
    await tx.connection.execute(select(func.pg_advisory_xact_lock(_SUBMIT_LOCK)))
    return (await tx.connection.execute(query)).scalar_one() < most


async def states(tx: Transaction, task_ids: Sequence[str], *, project: str | None = None) -> dict[str, TaskState]:
    """Return the states of those tasks that exist, by task id; with `project`, only of tasks in that project."""
    query = select(tasks.c.task_id, tasks.c.state).where(tasks.c.task_id.in_(task_ids))
    if project is not None:
        query = query.where(tasks.c.project == project)
    return {row["task_id"]: row["state"] for row in await _rows(tx, query)}


async def validating(tx: Transaction) -> list[str]:
    """Return the ids of the tasks whose result is not validated yet, longest waiting first."""
    return await _validating(tx, tasks.c.delivery.is_(None))


async def undelivered(tx: Transaction) -> list[str]:
    """Return the ids of the tasks whose accepted result is not delivered yet, longest waiting first.

    Of the tasks that have ended, only those of the last day are read, so that an index finds them.
    """
    newest = tasks.c.updated_at > func.now() - LONGEST_LATE_DELIVERY
    query = (
        select(tasks.c.task_id)
        .where(any_of(tasks.c.state, TASK_ENDS), newest)
        .where(tasks.c.delivery["state"].astext == "pending", tasks.c.state != "cancelled")
        .order_by(tasks.c.updated_at)
    )
    late = [row["task_id"] for row in await _rows(tx, query)]
    return await _validating(tx, tasks.c.delivery.is_not(None)) + late


async def _validating(tx: Transaction, which: ColumnElement[bool]) -> list[str]:
    query = select(tasks.c.task_id).where(any_of(tasks.c.state, {"validating"}), which).order_by(tasks.c.updated_at)
    return [row["task_id"] for row in await _rows(tx, query)]


async def settled(tx: Transaction) -> list[str]:
    """Return the ids of blocked tasks that need not wait any longer.

    Either all their dependencies have completed, or one dependency failed, was cancelled or was deleted.
    """
    blocking = tasks.alias("blocking")
    awaited = func.unnest(tasks.c.depends_on).table_valued(column("task_id", Text)).render_derived(name="awaited")
    completed = func.bool_and(any_of(blocking.c.state, {"completed"}))
    unmet = func.bool_or(or_(any_of(blocking.c.state, {"failed", "cancelled"}), blocking.c.task_id.is_(None)))
    query = (
        select(tasks.c.task_id)
        .join(awaited, true())
        .outerjoin(blocking, blocking.c.task_id == awaited.c.task_id)
        .where(any_of(tasks.c.state, {"blocked"}))
        .group_by(tasks.c.task_id)
        .having(or_(completed, unmet))
    )
    return [row["task_id"] for row in await _rows(tx, query)]


async def _rows(tx: Transaction, query: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any kind of statement
    return [dict(row) for row in (await tx.connection.execute(query)).mappings()]
