"""The reconcile loop of sandboxes: brings each sandbox that this gateway can reach to its desired state.

```
record changed ─┐
worker ended ───┼─▶ dirty set ─▶ one task per sandbox: read state ─▶ decide ─▶ act, until REST
every 5 s ──────┘                    ▲                                 │
                                     └──── after 1 s, if it failed ◀───┘
```
A wake-up contains only the id of a sandbox. The task then reads the sandbox's record, the state of the worker's process
and the log's last frame, and decides on the next action (`lifecycle.next_action`). So a lost or repeated wake-up does
no harm, because the check of all sandboxes every 5 s finds each sandbox that needs an action. The loop keeps no state
that a crash can lose: after a crash the next process reads the same state and continues. A sandbox has at most one task
in this process. Several gateways of one host may act on the same sandbox at the same time, which the actions permit.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from muster.common.bus.connection import Bus
from muster.common.contracts.tasks import ReportExit
from muster.common.faults import Conflict, Fault, Gone, NotFound
from muster.sandbox_gateway.providers.interface import ProcessState
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.domain.lifecycle import (
    NextAction,
    SandboxRecord,
    measurement_changed,
    needs_tail,
    next_action,
)
from muster.sandbox_gateway.sandboxes.domain.tokens import redacted
from muster.sandbox_gateway.sandboxes.reconcilers.preparations import SandboxPreparations
from muster.sandbox_gateway.sandboxes.reconcilers.sandbox_actions import SandboxActions
from muster.sandbox_gateway.sandboxes.store import SandboxStore

log = structlog.get_logger()

LOOK_AGAIN_S = 5.0
_TRY_AGAIN_S = 1.0
_AT_ONCE = 32
_STARTS_AT_ONCE = 64
_MOST_ACTIONS = 8
_TAIL_BYTES = 4 << 10
_LONGEST_LINE = 300
FENCED_GRACE = timedelta(seconds=30)
"""Time after the fence in which the manager collects evidence and stops the worker. Then the gateway stops it."""


class SandboxReconciler:
    """The loop of one gateway process that brings sandboxes to their desired states."""

    def __init__(
        self,
        bus: Bus,
        sandboxes: SandboxStore,
        log: SandboxLog,
        fences: FenceStore,
        providers: Providers,
        actions: SandboxActions,
        preparations: SandboxPreparations,
    ) -> None:
        self._bus, self._sandboxes, self._log, self._fences = bus, sandboxes, log, fences
        self._providers, self._actions, self._preparations = providers, actions, preparations
        self._dirty, self._busy = set[str](), set[str]()
        self._woken = asyncio.Event()
        self._slots, self._starts = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_STARTS_AT_ONCE)
        sandboxes.on_change(self.wake)

    def wake(self, sandbox_id: str) -> None:
        """Queue a sandbox, so that the reconcile loop checks it soon."""
        self._dirty.add(sandbox_id)
        self._woken.set()

    async def run(self) -> None:
        """Bring each queued sandbox to its desired state, until cancelled."""
        self._busy.clear()
        async with asyncio.TaskGroup() as tasks:
            for exits in self._providers.exits():
                tasks.create_task(self._follow_exits(exits))
            tasks.create_task(self._look_again())
            while True:
                await self._woken.wait()
                self._woken.clear()
                for sandbox_id in self._dirty - self._busy:
                    self._dirty.discard(sandbox_id)
                    self._busy.add(sandbox_id)
                    tasks.create_task(self._reconcile_one(sandbox_id))

    async def _follow_exits(self, exits: AsyncIterator[str]) -> None:
        async for sandbox_id in exits:
            self.wake(sandbox_id)

    async def _look_again(self) -> None:
        """Every 5 s, queue each sandbox that needs an action, in case its wake-up was lost."""
        while True:
            answered = await self._providers.poll_all()
            for record in self._sandboxes.all():
                processes = answered.get(record.provider)
                if processes is None or not self._providers.reach(record):
                    continue
                process = processes.get(record.sandbox_id)
                if self._needs_action(record, process):
                    self.wake(record.sandbox_id)
                elif process and measurement_changed(record, process):
                    await self._actions.record_measurement(record.sandbox_id, process)
            await asyncio.sleep(LOOK_AGAIN_S)

    def _needs_action(self, record: SandboxRecord, process: ProcessState | None) -> bool:
        action = next_action(record, process, None, overdue=self._overdue(record.sandbox_id))
        return action is not NextAction.REST

    async def _reconcile_one(self, sandbox_id: str) -> None:
        # This method must not raise: an exception would cancel the tasks of all other sandboxes in the TaskGroup.
        try:
            async with self._slot_of(sandbox_id):
                await self._settle(sandbox_id)
        except Fault as fault:
            log.warning("sandbox action failed, trying again", sandbox_id=sandbox_id, error=str(fault))
            await self._actions.record_waiting(sandbox_id, str(fault))
            delay_s = max(_TRY_AGAIN_S, fault.retry_after_s or 0.0)
            asyncio.get_running_loop().call_later(delay_s, self.wake, sandbox_id)
        except Exception:
            log.exception("sandbox reconciliation raised an unexpected error", sandbox_id=sandbox_id)
        finally:
            self._busy.discard(sandbox_id)
            if sandbox_id in self._dirty:
                self._woken.set()

    @asynccontextmanager
    async def _slot_of(self, sandbox_id: str) -> AsyncGenerator[None]:
        """Hold a slot of starts or of other actions: a start may clone for minutes, and a stop must not wait for it.

        The slots are given in the order of the requests. A start that is stopped while it waits takes another slot.
        """
        record = self._sandboxes.known(sandbox_id)
        starts = record is not None and record.state == "creating" and record.wanted == "running"
        if starts and await self._preparations.run(sandbox_id, self._starts.acquire):
            try:
                yield
            finally:
                self._starts.release()
        else:
            async with self._slots:
                yield

    async def _settle(self, sandbox_id: str) -> None:
        for _ in range(_MOST_ACTIONS):
            record = await self._sandboxes.get(sandbox_id)
            if record is None or not self._providers.reach(record):
                return
            process = await self._providers.of(record).poll(sandbox_id) if record.state != "deleted" else None
            tail = await self._log.tail(sandbox_id) if needs_tail(record, process) else None
            action = next_action(record, process, tail, overdue=self._overdue(sandbox_id))
            if action is NextAction.REST:
                return
            log.info("sandbox action started", sandbox_id=sandbox_id, state=record.state, action=action.name.lower())
            if action is NextAction.REPORT:
                await self._report(record, process)
            else:
                await self._actions.take(action, record, process)

    async def _report(self, record: SandboxRecord, process: ProcessState | None) -> None:
        """Report to the agent manager that a worker ended without a result, and then update the sandbox's record.

        If this process crashes between the two, the report is sent a second time, which the agent manager accepts.
        """
        reason = _reason(record, process) + await self._last_output_line(record, process)
        report = ReportExit(
            task_id=record.create.task_id,
            sandbox_id=record.sandbox_id,
            epoch=record.create.epoch,
            exit_code=process.exit_code if process else None,
            reason=reason,
            final=record.refused,
            interrupted=process is not None and process.interrupted,
        )
        try:
            await self._bus.request(report)
        except (NotFound, Gone, Conflict) as answered:
            log.info("agent manager refused a worker's exit report", sandbox_id=record.sandbox_id, answer=str(answered))
        await self._actions.record_lost(record, process, reason)

    async def _last_output_line(self, record: SandboxRecord, process: ProcessState | None) -> str:
        """Return the last output line of a worker that ended by itself. This line most often names the cause."""
        if record.ended_because or record.error or process is None or process.error or process.interrupted:
            return ""
        try:
            page = await self._providers.of(record).logs(record.sandbox_id, offset=-_TAIL_BYTES, limit=_TAIL_BYTES)
        except Fault:
            return ""
        lines = [line.strip() for line in page.body.decode(errors="replace").splitlines() if line.strip()]
        return f"; the last line of its output: {_printable(redacted(lines[-1]))}" if lines else ""

    def _overdue(self, sandbox_id: str) -> bool:
        fence = self._fences.get(sandbox_id)
        return fence is not None and self._bus.now() - fence.at > FENCED_GRACE


def _reason(record: SandboxRecord, process: ProcessState | None) -> str:
    if record.ended_because:
        return record.ended_because
    if record.error:
        return f"could not be started: {record.error}"
    if process is None:
        return "its worker is gone: the provider has no record of it"
    if process.error:
        return f"could not be started: {process.error}" if record.state == "creating" else process.error
    if process.interrupted:
        return "interrupted: the worker's host was shut down, or no gateway renewed the worker's lease"
    return f"its worker ended with exit code {process.exit_code} before it reported a result"


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in line)[:_LONGEST_LINE]
