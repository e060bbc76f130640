"""Handles requests of clients that read or cancel tasks."""

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.paging import cursor_after, read_cursor
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.tasks.domain.states import TASK_ENDS
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.agent_manager.tasks.handlers.views import listed_task_view, task_view
from muster.agent_manager.tasks.store import attempts, replacements
from muster.agent_manager.tasks.store import tasks as stored
from muster.agent_manager.tasks.store.transitions import change_task, lock_task
from muster.common.contract import token
from muster.common.contracts.limits import LARGEST_PAGE, LONGEST_REASON
from muster.common.contracts.tasks import (
    CancelTask,
    GetSandboxAttempt,
    GetTask,
    ListTasks,
    SandboxAttempt,
    TaskPage,
    TaskView,
)
from muster.common.faults import Conflict, InvalidMessage, NotFound
from muster.common.storable_values import refuse_unstorable


class TaskRequests:
    """Handles the requests of clients that read or cancel tasks."""

    def __init__(self, database: ManagerDatabase) -> None:
        self._database = database

    async def get(self, command: GetTask) -> TaskView:
        """Return one task with its attempts. Raises `NotFound`."""
        found = await stored.with_attempts(self._database.reader, token(command.task_id, "task_id"))
        if found is None:
            raise NotFound(f"there is no task {command.task_id}", field="$.task_id")
        return task_view(*found)

    async def of_sandbox(self, query: GetSandboxAttempt) -> SandboxAttempt:
        """Return the attempt that a sandbox was created for. Raises `NotFound` for an unknown sandbox."""
        attempt = await stored.attempt_of(self._database.reader, token(query.sandbox_id, "sandbox_id"))
        if attempt is None:
            raise NotFound(f"there is no attempt with sandbox {query.sandbox_id}", field="$.sandbox_id")
        return SandboxAttempt(
            sandbox_id=attempt.sandbox_id,
            task_id=attempt.task_id,
            epoch=attempt.epoch,
            state=attempt.state,
            opened_at=attempt.opened_at,
        )

    async def page(self, command: ListTasks) -> TaskPage:
        """Return one page of the list of tasks, newest first."""
        if not 1 <= command.limit <= LARGEST_PAGE:
            raise InvalidMessage(f"limit must be between 1 and {LARGEST_PAGE}", field="$.limit")
        for name in ("project", "labels"):
            refuse_unstorable(getattr(command, name), f"$.{name}")
        before = read_cursor(command.cursor) if command.cursor else None
        found, more = await stored.page(
            self._database.reader,
            state=command.state,
            project=command.project,
            labels=command.labels,
            before=before,
            limit=command.limit,
        )
        views = [listed_task_view(*tried) for tried in found]
        return TaskPage(
            tasks=views, next_cursor=cursor_after(found[-1][0].created_at, found[-1][0].task_id) if more else None
        )

    async def cancel(self, command: CancelTask) -> TaskView:
        """Cancel a task. Its live attempt is fenced and stopped, and no further attempt is opened."""
        if len(command.reason) > LONGEST_REASON:
            raise InvalidMessage(f"reason is longer than {LONGEST_REASON} characters; shorten it", field="$.reason")
        async with self._database.begin() as tx:
            if (task := await lock_task(tx, token(command.task_id, "task_id"))) is None:
                raise NotFound(f"there is no task {command.task_id}", field="$.task_id")
            if task.state in TASK_ENDS and task.state != "cancelled":
                raise Conflict(f"task {task.task_id} cannot be cancelled: its state is already {task.state}")
            if task.state != "cancelled":
                attempt = await attempts.of_epoch(tx, task.task_id, task.epoch)
                if attempt is not None:
                    await replacements.begin(tx, task, attempt, reason=command.reason, ends="fenced", then="cancel")
                task = await change_task(tx, task, "cancelled", reason=command.reason, error=command.reason)
            return await _view(tx, task)


async def _view(tx: Transaction, task: TaskRecord) -> TaskView:
    return task_view(task, await stored.attempts_of(tx, task.task_id))
