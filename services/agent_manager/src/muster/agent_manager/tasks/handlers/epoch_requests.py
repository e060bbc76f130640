"""Ends epochs (fencing numbers of attempts) on request. For an epoch that is not live, the answer is `moot`."""

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.tasks.adapters.sandbox_logs import SandboxLogReader
from muster.agent_manager.tasks.store import attempts, replacements
from muster.agent_manager.tasks.store.transitions import lock_task
from muster.common.contract import token
from muster.common.contracts.sandbox_log import FrameKind
from muster.common.contracts.tasks import EpochAnswer, ReplaceAttempt, ReportExit
from muster.common.faults import InvalidMessage, NotFound

LARGEST = 2**31 - 1


class EpochRequests:
    """Begins replacements of attempts when the guardian or the sandbox gateway asks for them."""

    def __init__(self, database: ManagerDatabase, logs: SandboxLogReader) -> None:
        self._database, self._logs = database, logs

    async def replace(self, command: ReplaceAttempt) -> EpochAnswer:
        """End the live epoch of a task and retry the task; answer `moot` if the epoch is no longer live."""
        _refuse_large(command.epoch, "epoch")
        decision_id = command.decision_id and token(command.decision_id, "decision_id")
        async with self._database.begin() as tx:
            if (task := await lock_task(tx, token(command.task_id, "task_id"))) is None:
                raise NotFound(f"there is no task {command.task_id}", field="$.task_id")
            saga = await replacements.of_epoch(tx, task.task_id, command.epoch)
            going = saga is not None and saga.step != "done" and saga.then == "retry"
            attempt = await attempts.of_epoch(tx, task.task_id, command.epoch)
            begun = attempt is not None and await replacements.begin(
                tx, task, attempt, reason=command.reason, ends="fenced", then="retry", decision_id=decision_id
            )
        result = "replacing" if begun or going else "moot"
        return EpochAnswer(task_id=command.task_id, epoch=command.epoch, result=result)

    async def report_exit(self, command: ReportExit) -> EpochAnswer:
        """Handle the exit of a worker: use the result if the worker had finished, else retry or fail the task."""
        _refuse_large(command.epoch, "epoch")
        _refuse_large(command.exit_code or 0, "exit_code")
        last = await self._logs.last_kind(token(command.sandbox_id, "sandbox_id"))
        result, then = "moot", "fail" if command.final else "retry"
        async with self._database.begin() as tx:
            task = await lock_task(tx, token(command.task_id, "task_id"))
            attempt = None if task is None else await attempts.of_epoch(tx, task.task_id, command.epoch)
            if task is not None and attempt is not None and attempt.sandbox_id == command.sandbox_id:
                if attempt.exit_code is None and command.exit_code is not None:
                    attempt = await attempts.note(tx, attempt, exit_code=command.exit_code)
                if last is FrameKind.FINISHED:
                    result = "ended"  # `SandboxLogConsumer` stores the worker's report.
                elif await replacements.begin(tx, task, attempt, reason=command.reason, ends="lost", then=then):
                    await attempts.note(tx, attempt, interrupted=command.interrupted)
                    result = "replacing"
        return EpochAnswer(task_id=command.task_id, epoch=command.epoch, result=result)


def _refuse_large(number: int, field: str) -> None:
    if not -LARGEST <= number <= LARGEST:
        raise InvalidMessage(f"{field} is out of range: the largest number is {LARGEST}", field=f"$.{field}")
