"""Validates results: runs the test command of a task in its sandbox before the task counts as completed."""

from datetime import timedelta

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.results.domain.deliveries import first_delivery
from muster.agent_manager.results.domain.validation import (
    ResultVerdict,
    WorkerReport,
    after_verdict,
    could_not_test,
    judge,
    wants_test,
)
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.agent_manager.tasks.store import attempts, tasks
from muster.agent_manager.tasks.store.transitions import change_task, lock_task
from muster.common.clock import Clock
from muster.common.faults import Conflict, Fault, Forbidden, Gone, InvalidMessage, NotFound, TooLarge

PATIENCE = timedelta(minutes=10)
"""A test without a result for this long counts as failed: the gateway is unreachable, or has lost the test."""
_FINAL = (NotFound, Gone, Conflict, Forbidden, InvalidMessage, TooLarge)


class ResultValidation:
    """Finds tasks whose result is not validated yet, and validates each result."""

    def __init__(
        self, database: ManagerDatabase, gateway: SandboxGatewayClient, settings: ManagerSettings, *, now: Clock
    ) -> None:
        self._database, self._gateway, self._settings, self._now = database, gateway, settings, now

    async def find(self) -> list[str]:
        """Return the ids of the tasks whose result is not validated yet."""
        async with self._database.begin() as tx:
            return await tasks.validating(tx)

    async def act(self, task_id: str) -> None:
        """Validate the result of one task, and store the next state of the task."""
        async with self._database.begin() as tx:
            task = await tasks.read(tx, task_id)
            attempt = None if task is None else await attempts.of_epoch(tx, task_id, task.epoch)
        if task is None or attempt is None or not _waits(task):
            return
        verdict = await self._verdict(task, attempt)
        async with self._database.begin() as tx:
            now = await lock_task(tx, task_id)
            if now is None or not _waits(now) or now.epoch != attempt.epoch:
                return  # Since the first read, the task was cancelled, or another replica stored its next state.
            tries = await attempts.tries(tx, task_id)
            state = after_verdict(verdict, tries, self._settings.max_attempts)
            found: dict[str, object] = {"validation": verdict.validation, "error": verdict.error}
            if state == "completed":
                found["reached_limit"] = None  # The worker has finished its work before the limit ended its run.
            if state == "completed" and (delivery := first_delivery(now, accepted_at=tx.now)):
                await change_task(tx, now, "validating", reason=None, delivery=delivery, **found)
                return  # The task is completed when its result is delivered.
            now = await change_task(tx, now, state, reason=verdict.error, **found)
            if state == "retrying":
                await change_task(tx, now, "queued", reason=verdict.error)

    async def _verdict(self, task: TaskRecord, attempt: AttemptRecord) -> ResultVerdict:
        report = WorkerReport(
            outcome=attempt.outcome or "error",
            error=attempt.reason,
            summary=task.summary or "",
            diff=task.diff or "",
            expects_change=task.spec.expects_change,
            question=attempt.question,
            limit=attempt.reached_limit,
        )
        if not wants_test(report, task.spec.test_command) or task.spec.test_command is None:
            return judge(report, None)
        try:
            output = await self._gateway.validate(
                attempt.sandbox_id, task.spec.test_command, timeout_s=self._settings.validation_timeout_s
            )
        except Fault as refusal:
            if isinstance(refusal, _FINAL) or self._now() - task.updated_at > PATIENCE:
                return could_not_test(str(refusal))
            raise
        return judge(report, output)


def _waits(task: TaskRecord) -> bool:
    """Return whether the result of a task is not validated yet. An accepted result has a delivery."""
    return task.state == "validating" and task.delivery is None
