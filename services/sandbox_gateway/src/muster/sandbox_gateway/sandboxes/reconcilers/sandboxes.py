"""Brings every sandbox of this host to where it should be; what a crash left undone, the next look finds."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import structlog

from muster.common.bus.connection import Bus
from muster.common.contracts.tasks import ReportExit
from muster.common.faults import Conflict, Fault, Gone, NotFound
from muster.sandbox_gateway.providers.interface import WorkerProcess
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.domain.lifecycle import NextStep, SandboxRecord, needs_tail, next_step
from muster.sandbox_gateway.sandboxes.domain.tokens import redacted
from muster.sandbox_gateway.sandboxes.reconcilers.actions import SandboxActions
from muster.sandbox_gateway.sandboxes.store import SandboxStore

log = structlog.get_logger()

LOOK_AGAIN_S = 5.0
_TRY_AGAIN_S = 1.0
_AT_ONCE = 32
_MOST_STEPS = 8
_TAIL_BYTES = 4 << 10
_LONGEST_WORDS = 300
FENCED_GRACE = timedelta(seconds=30)
"""How long whoever fenced a sandbox has to take its evidence and stop it, before the gateway stops it."""


class SandboxReconciler:
    """One per gateway; wake-ups say which sandbox to look at, facts say what to do."""

    def __init__(
        self,
        bus: Bus,
        sandboxes: SandboxStore,
        log: SandboxLog,
        fences: FenceStore,
        providers: Providers,
        steps: SandboxActions,
    ) -> None:
        self._bus, self._sandboxes, self._log, self._fences = bus, sandboxes, log, fences
        self._providers, self._steps = providers, steps
        self._dirty, self._busy = set[str](), set[str]()
        self._news = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        sandboxes.on_change(self.wake)

    def wake(self, sandbox_id: str) -> None:
        """Look at this sandbox soon."""
        self._dirty.add(sandbox_id)
        self._news.set()

    async def run(self) -> None:
        """For ever."""
        self._busy.clear()
        async with asyncio.TaskGroup() as tasks:
            for exits in self._providers.exits():
                tasks.create_task(self._hear_exits(exits))
            tasks.create_task(self._look_again())
            while True:
                await self._news.wait()
                self._news.clear()
                for sandbox_id in self._dirty - self._busy:
                    self._dirty.discard(sandbox_id)
                    self._busy.add(sandbox_id)
                    tasks.create_task(self._attend(sandbox_id))

    async def _hear_exits(self, exits: AsyncIterator[str]) -> None:
        async for sandbox_id in exits:
            self.wake(sandbox_id)

    async def _look_again(self) -> None:
        """Every few seconds, whatever was or was not heard: wake what is not as it should be."""
        while True:
            try:
                processes = await self._providers.polls()
            except Fault as fault:
                log.warning("the provider does not answer", error=str(fault))
            else:
                for record in self._sandboxes.all():
                    if self._providers.reach(record) and self._off(record, processes.get(record.sandbox_id)):
                        self.wake(record.sandbox_id)
            await asyncio.sleep(LOOK_AGAIN_S)

    def _off(self, record: SandboxRecord, process: WorkerProcess | None) -> bool:
        step = next_step(record, process, None, overdue=self._overdue(record.sandbox_id))
        return step is not NextStep.REST

    async def _attend(self, sandbox_id: str) -> None:
        # May never raise: in a TaskGroup that would cancel every neighbour.
        try:
            async with self._slots:
                await self._settle(sandbox_id)
        except Fault as fault:
            log.warning("will retry", sandbox_id=sandbox_id, error=str(fault))
            asyncio.get_running_loop().call_later(_TRY_AGAIN_S, self.wake, sandbox_id)
        except Exception:
            log.exception("reconciling failed; will look again", sandbox_id=sandbox_id)
        finally:
            self._busy.discard(sandbox_id)
            if sandbox_id in self._dirty:
                self._news.set()

    async def _settle(self, sandbox_id: str) -> None:
        for _ in range(_MOST_STEPS):
            record = await self._sandboxes.get(sandbox_id)
            if record is None or not self._providers.reach(record):
                return
            process = await self._providers.of(record).poll(sandbox_id) if record.state != "deleted" else None
            tail = await self._log.tail(sandbox_id) if needs_tail(record, process) else None
            step = next_step(record, process, tail, overdue=self._overdue(sandbox_id))
            if step is NextStep.REST:
                return
            log.info("sandbox step", sandbox_id=sandbox_id, state=record.state, step=step.name.lower())
            if step is NextStep.REPORT:
                await self._report(record, process)
            else:
                await self._steps.take(step, record, process)

    async def _report(self, record: SandboxRecord, process: WorkerProcess | None) -> None:
        """Tell the manager that a worker ended without `finished`; it decides what comes next."""
        reason = _reason(record, process) + await self._last_words(record, process)
        told = ReportExit(
            task_id=record.create.task_id,
            sandbox_id=record.sandbox_id,
            epoch=record.create.epoch,
            exit_code=process.exit_code if process else None,
            reason=reason,
            final=record.refused,
            interrupted=process is not None and process.interrupted,
        )
        try:
            await self._bus.request(told)
        except (NotFound, Gone, Conflict) as answered:
            log.info("the manager does not know this epoch any more", sandbox_id=record.sandbox_id, said=str(answered))
        await self._steps.lose(record, process, reason)

    async def _last_words(self, record: SandboxRecord, process: WorkerProcess | None) -> str:
        """The last line that a worker wrote which ended by itself: most often it says why."""
        if record.error or process is None or process.error or process.interrupted:
            return ""
        try:
            output = await self._providers.of(record).logs(record.sandbox_id, _TAIL_BYTES)
        except Fault:
            return ""
        lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
        return f"; it wrote last: {_printable(redacted(lines[-1]))}" if lines else ""

    def _overdue(self, sandbox_id: str) -> bool:
        fence = self._fences.get(sandbox_id)
        return fence is not None and self._bus.now() - fence.at > FENCED_GRACE


def _reason(record: SandboxRecord, process: WorkerProcess | None) -> str:
    if record.error:
        return f"could not be started: {record.error}"
    if process is None:
        return "vanished: nobody remembers its worker"
    if process.error:
        return f"could not be started: {process.error}" if record.state == "creating" else process.error
    if process.interrupted:
        return "interrupted: its host was shut down, or no gateway was there to keep it"
    return f"its worker ended with exit code {process.exit_code} before it had finished"


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in line)[:_LONGEST_WORDS]
