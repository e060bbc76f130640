"""Ends epochs by replacements: fence, evidence, stop, new attempt.

One row for each (task, epoch) names the next step. A step may run twice with the same result, and is stored in the same
transaction as its effect on the task. If this process dies between two steps, the loop of any replica finds the row and
repeats at most one step. The fence comes first: after it nothing of the epoch is stored, so whether the worker had
finished can be read from the log once and for all.
"""

import asyncio

import msgspec
import structlog

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.adapters.sandbox_logs import SandboxLogReader
from muster.agent_manager.tasks.domain.replacements import ReplacementSaga, reopened
from muster.agent_manager.tasks.store import attempts
from muster.agent_manager.tasks.store import replacements as stored
from muster.agent_manager.tasks.store.transitions import change_task, lock_task
from muster.common.clock import Clock
from muster.common.contracts.gateway import Evidence
from muster.common.faults import Fault, TimedOut, Unavailable

log = structlog.get_logger()

EVIDENCE_TRIES = 3
EVIDENCE_AGAIN_S = 0.5


class ReplacementReconciler:
    """Finds every replacement that is not done and runs its next step; replacements run side by side."""

    def __init__(
        self,
        database: ManagerDatabase,
        gateway: SandboxGatewayClient,
        logs: SandboxLogReader,
        settings: ManagerSettings,
        *,
        now: Clock,
    ) -> None:
        self._database, self._gateway, self._logs = database, gateway, logs
        self._settings, self._now = settings, now

    async def find(self) -> list[ReplacementSaga]:
        """Return the replacements that are not done."""
        async with self._database.begin() as tx:
            return await stored.left(tx)

    async def act(self, saga: ReplacementSaga) -> None:
        """Run the next step of one replacement; the loop returns for the steps after it."""
        match saga.step:
            case "fence":
                await self._fence(saga)
            case "evidence":
                await self._take_evidence(saga)
            case "stop":
                await self._gateway.stop(saga.sandbox_id, grace_s=self._settings.stop_grace_s)
                await self._done(saga)
            case "reopen":
                await self._reopen(saga)
            case "done":
                pass

    async def _fence(self, saga: ReplacementSaga) -> None:
        """Fence the epoch, then read from the log whether the worker had finished before the fence."""
        await self._gateway.fence(saga)
        report = await self._logs.finished(saga.sandbox_id)
        async with self._database.begin() as tx:
            if (found := await attempts.of_sandbox(tx, saga.sandbox_id)) is None:
                return
            task, attempt = found
            if report is not None:
                await attempts.finished(tx, task, attempt, report)
            elif attempt.live:
                await attempts.step(tx, attempt, saga.ends)
            # A finished attempt is validated in its sandbox, so the sandbox stays, unless the task was cancelled.
            await stored.done(tx, saga, "fence", last=report is not None and saga.then != "cancel")

    async def _take_evidence(self, saga: ReplacementSaga) -> None:
        """Collect evidence before the stop, or store the reason why there is none (I8)."""
        evidence = await self._evidence(saga.sandbox_id)
        async with self._database.begin() as tx:
            found = await attempts.of_sandbox(tx, saga.sandbox_id)
            if found is not None and found[1].exit_code is None and evidence.exit_code is not None:
                await attempts.note(tx, found[1], exit_code=evidence.exit_code)
            await stored.done(tx, saga, "evidence", evidence=msgspec.to_builtins(evidence))

    async def _evidence(self, sandbox_id: str) -> Evidence:
        why = ""
        for _ in range(EVIDENCE_TRIES):
            try:
                return await self._gateway.evidence(sandbox_id)
            except Unavailable:
                raise  # without a gateway the later steps cannot run either, so there is time
            except TimedOut as error:
                why = str(error)
                await asyncio.sleep(EVIDENCE_AGAIN_S)
            except Fault as refusal:
                why = str(refusal)
                break
        log.warning("evidence not collected", sandbox_id=sandbox_id, why=why)
        return Evidence(
            sandbox_id=sandbox_id,
            at=self._now(),
            next_seq=0,
            exit_code=None,
            output_tail="",
            unsent=None,
            missing=[f"everything: {why}"],
        )

    async def _done(self, saga: ReplacementSaga) -> None:
        async with self._database.begin() as tx:
            await stored.done(tx, saga, saga.step)

    async def _reopen(self, saga: ReplacementSaga) -> None:
        """Store that the step is done, together with its effect on the task, in one transaction."""
        async with self._database.begin() as tx:
            task = await lock_task(tx, saga.task_id)
            if not await stored.done(tx, saga, "reopen") or task is None or task.epoch != saga.epoch:
                return
            tries = await attempts.tries(tx, task.task_id)
            match reopened(saga.then, task.state, tries, self._settings.max_attempts):
                case "queued":
                    await change_task(tx, task, "queued", reason=saga.reason, error=None)
                case "failed":
                    await change_task(tx, task, "failed", reason=saga.reason, error=saga.reason)
                case None:
                    pass
