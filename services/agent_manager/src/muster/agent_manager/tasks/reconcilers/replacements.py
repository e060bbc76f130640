"""Ends the epochs of failed attempts in four steps: fence, collect evidence, stop the worker, queue the task again.

An epoch is the fencing number of an attempt; a fence is the frame in a sandbox's log that ends an epoch.
One row for each (task, epoch) names the next step. A step can run twice with the same result, and its completion is
stored in the same transaction as its effect on the task. If this process dies between two steps, the loop of any
replica finds the row and repeats at most one step. The fence is first: after it, the log accepts no frames of the
epoch. So the log then shows finally whether the worker had finished.
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
    """Finds every unfinished replacement and runs its next step; several replacements run at the same time."""

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
        """Return the unfinished replacements of attempts."""
        async with self._database.begin() as tx:
            return await stored.left(tx)

    async def act(self, saga: ReplacementSaga) -> None:
        """Run the next step of one replacement; the loop calls this again for the steps after it."""
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
        """Fence the epoch of an attempt, then read from the log whether the worker had finished before the fence."""
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
            # If the worker had finished, its sandbox is needed to validate the result, unless the task was cancelled.
            await stored.done(tx, saga, "fence", last=report is not None and saga.then != "cancel")

    async def _take_evidence(self, saga: ReplacementSaga) -> None:
        """Collect evidence before the worker is stopped, or store the reason why evidence is missing (I8)."""
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
                raise  # Without a gateway the later steps cannot run either, so this step waits for the gateway.
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
        """Store in one transaction that the step `reopen` is done, and queue or fail the task."""
        async with self._database.begin() as tx:
            task = await lock_task(tx, saga.task_id)
            if not await stored.done(tx, saga, "reopen") or task is None or task.epoch != saga.epoch:
                return
            tries = await attempts.tries(tx, task.task_id)
            match reopened(saga.then, task.state, tries, self._settings.max_attempts):
                case "queued":
                    await change_task(tx, task, "queued", reason=saga.reason, error=None)
                case "failed":
                    ended = await attempts.of_epoch(tx, task.task_id, saga.epoch)
                    limit = ended.reached_limit if ended else None
                    await change_task(tx, task, "failed", reason=saga.reason, error=saga.reason, reached_limit=limit)
                case None:
                    pass
