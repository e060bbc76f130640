"""The actions that change a sandbox: start, adopt, stop, settle, discard and delete.

Each action may be repeated after a crash at any line, and two gateways may take the same action at the same time. A
provider returns the existing process for a known key. An append does nothing if the sandbox's log has the frame (one
stored append) already. Records are changed by compare-and-set. The order of steps in an action matters:

- start: make the sandbox, append `opened` to the log, launch the worker, then update the record. If the sandbox was
  fenced (its epoch was ended in the log), the log refuses `opened`, so the worker is not launched. After a crash
  between launch and update the reconciler finds the process and records it, which is the action adopt.
- delete: stop the worker, append `closed`, remove the sandbox, then update the record. The record gets the state
  `deleted` last, so that after a crash the action is taken again.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal
from functools import partial

import msgspec
import structlog

from muster.common.clock import Clock
from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.model_calls import ModelSettings
from muster.common.contracts.sandbox_log import Closed, FrameKind, Opened
from muster.common.contracts.worker_api import Handoff
from muster.common.faults import Fault, Gone, InvalidMessage
from muster.sandbox_gateway.providers.interface import ProcessState, SandboxLayout
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandbox_log.domain.frames import control
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.adapters.tokens import SandboxTokens
from muster.sandbox_gateway.sandboxes.adapters.workers import PreparedSandbox, SandboxWorkers
from muster.sandbox_gateway.sandboxes.domain.cost import counting, suspended
from muster.sandbox_gateway.sandboxes.domain.handoff import handoff
from muster.sandbox_gateway.sandboxes.domain.lifecycle import NextAction, SandboxRecord, measured
from muster.sandbox_gateway.sandboxes.reconcilers.preparations import SandboxPreparations
from muster.sandbox_gateway.sandboxes.store import SandboxStore

log = structlog.get_logger()

APPEND_S = 4.0
SAID_EVERY_S = 20.0
_EXTRA_WAIT_S = 30.0
"""Seconds by which a worker's deadline for a model call exceeds the gateway's, so that the worker gets the answer."""


class SandboxActions:
    """Starts, stops and deletes the sandboxes that this gateway can reach, and updates their records."""

    def __init__(
        self,
        sandboxes: SandboxStore,
        log: SandboxLog,
        fences: FenceStore,
        providers: Providers,
        workers: SandboxWorkers,
        tokens: SandboxTokens,
        preparations: SandboxPreparations,
        now: Clock,
        *,
        beat_running_s: float,
        beat_idle_s: float,
        model_deadline_s: float,
        model_settings: Callable[[str], ModelSettings],
        prices: Mapping[str, Decimal],
    ) -> None:
        self._sandboxes, self._log, self._fences = sandboxes, log, fences
        self._providers, self._workers, self._tokens = providers, workers, tokens
        self._preparations, self._now, self._prices = preparations, now, prices
        self._beat_running_s, self._beat_idle_s = beat_running_s, beat_idle_s
        self._model_deadline_s, self._model_settings = model_deadline_s, model_settings

    async def take(self, action: NextAction, record: SandboxRecord, process: ProcessState | None) -> None:
        """Take an action on a sandbox. `process` is the worker's state that was read to decide on the action."""
        match action:
            case NextAction.START:
                await self._start(record)
            case NextAction.ADOPT:
                await self._record_running(record.sandbox_id, process)
            case NextAction.STOP:
                await self._stop(record)
            case NextAction.SETTLE:
                await self._record_ended(record.sandbox_id, process)
            case NextAction.DISCARD:
                await self._discard(record)
            case NextAction.DELETE:
                await self._delete(record)
            case NextAction.REPORT | NextAction.REST:
                raise AssertionError(action)

    async def record_lost(self, record: SandboxRecord, process: ProcessState | None, reason: str) -> None:
        """Record that a sandbox's worker ended without a result. The caller has reported this to the agent manager."""
        code, exceeded = (process.exit_code, process.exceeded) if process else (None, None)

        def lost(now: SandboxRecord) -> SandboxRecord:
            state = "error" if now.state == "creating" else "lost"
            return now.moved(state, error=reason, exit_code=code, exceeded=exceeded) if now.live else now

        await self._sandboxes.change(record.sandbox_id, lost)

    async def record_waiting(self, sandbox_id: str, reason: str) -> None:
        """Record why a sandbox has not started yet. Does nothing if that is recorded or the sandbox has started."""
        record = self._sandboxes.known(sandbox_id)
        if record is None or record.state != "creating":
            return
        said_at = record.preparing_at
        if record.waiting == reason and said_at and (self._now() - said_at).total_seconds() < SAID_EVERY_S:
            return
        with suppress(Fault):
            await self._sandboxes.change(sandbox_id, lambda now: self._preparing(now, reason))

    def _preparing(self, record: SandboxRecord, waiting: str | None) -> SandboxRecord:
        if record.state != "creating":
            return record
        return record.moved("creating", waiting=waiting, preparing_at=self._now())

    async def _say_preparing(self, sandbox_id: str) -> None:
        """Write every 20 s that the sandbox is being made, so that the manager does not replace the attempt."""
        while True:
            await asyncio.sleep(SAID_EVERY_S)
            with suppress(Fault):
                await self._sandboxes.change(sandbox_id, lambda now: self._preparing(now, now.waiting))

    async def record_measurement(self, sandbox_id: str, process: ProcessState) -> None:
        """Record the worker's start time and memory. A fault is ignored, because the next check tries again."""
        with suppress(Fault):
            await self._sandboxes.change(sandbox_id, lambda now: measured(now, process))

    async def _start(self, record: SandboxRecord) -> None:
        # The sandbox is made before its log is opened. A clone or a quota may take long, and the guardian replaces an
        # attempt whose log is open and whose worker is silent.
        sandbox_id, failure = record.sandbox_id, None
        try:
            prepared = await self._prepared(record)
        except (InvalidMessage, OSError) as error:
            prepared, failure = None, error
        if prepared is None and failure is None:
            # A stop or a deletion is the next action. A fenced sandbox is removed now, also before its log shows that.
            if self._fences.get(sandbox_id):
                await self._discard(record)
            return
        if prepared is not None:
            price, now = self._prices.get(record.provider), self._now()
            await self._sandboxes.change(sandbox_id, lambda one: counting(one, now, price))
        try:
            await self._open_log(record)
        except Gone:  # the sandbox was fenced before its log was opened
            await self._discard(record)
            return
        try:
            process = await self._launch(record, prepared) if prepared else None
        except (InvalidMessage, OSError) as error:
            process, failure = None, error
        if process is None or (process.error and process.pid is None):
            # An `OSError`, such as a full disk, is not a refusal, so that the manager may start another attempt.
            why = str(failure or (process and process.error))
            await self._record_failure(sandbox_id, why, refused=isinstance(failure, InvalidMessage))
            return
        await self._record_running(sandbox_id, process)

    async def _prepared(self, record: SandboxRecord) -> PreparedSandbox | None:
        """Make the sandbox with its repository. Returns None if it was stopped, deleted or fenced meanwhile."""
        prepared: PreparedSandbox | None = None
        failure: Exception | None = None
        work = partial(self._workers.prepare, self._providers.of(record), record.create)
        async with asyncio.TaskGroup() as tasks:
            saying = tasks.create_task(self._say_preparing(record.sandbox_id))
            try:
                prepared = await self._preparations.run(record.sandbox_id, work)
            except Exception as error:  # noqa: BLE001 - raised below, because a TaskGroup would wrap it
                failure = error
            saying.cancel()
        if failure is not None:
            raise failure
        return prepared

    async def _open_log(self, record: SandboxRecord) -> None:
        create = record.create
        opened = Opened(
            package=create.package,
            model=create.model,
            conversation_id=create.conversation_id,
            isolation=await self._providers.of(record).isolation(),
        )
        await self._log.append([control(record.owner, FrameKind.OPENED, opened)], deadline_s=APPEND_S)

    async def _record_failure(self, sandbox_id: str, error: str, *, refused: bool = False) -> None:
        """Record why a worker could not be started. The next action reports this error to the agent manager."""
        await self._sandboxes.change(sandbox_id, lambda now: now.moved(now.state, error=error, refused=refused))

    async def _launch(self, record: SandboxRecord, prepared: PreparedSandbox) -> ProcessState:
        create = record.create
        token, proxied = self._tokens.issue(create), self._tokens.reaches_proxy(create)

        def handoff_for(layout: SandboxLayout, repo_url: str | None) -> Handoff:
            return handoff(
                create,
                token=token,
                gateway_url=layout.gateway_url,
                gateway_socket=layout.gateway_socket,
                egress_socket=layout.egress_socket if proxied else None,
                workspace=layout.workspace,
                state_dir=layout.state_dir,
                repo_url=repo_url,
                beat_running_s=self._beat_running_s,
                beat_idle_s=self._beat_idle_s,
                model_deadline_s=self._model_deadline_s + _EXTRA_WAIT_S,
                model_settings=self._settings_of(create),
            )

        return await self._workers.start(self._providers.of(record), create, prepared, handoff_for)

    def _settings_of(self, create: CreateSandbox) -> ModelSettings:
        """Return the settings of the task's model. A setting of the task replaces that of the model's entry."""
        settings = self._model_settings(create.model)
        own = {name: getattr(create, name) for name in ("max_output_tokens", "temperature", "effort")}
        return msgspec.structs.replace(settings, **{name: value for name, value in own.items() if value is not None})

    async def _record_running(self, sandbox_id: str, process: ProcessState | None) -> None:
        assert process is not None
        await self._sandboxes.change(
            sandbox_id,
            lambda now: (
                measured(now.moved("running", pid=process.pid, isolation=process.isolation), process)
                if now.state == "creating"
                else now
            ),
        )

    async def _stop(self, record: SandboxRecord) -> None:
        if record.live:
            await self._sandboxes.change(
                record.sandbox_id,
                lambda now: now.moved("stopping") if now.state in ("creating", "running") else now,
            )
        process = await self._providers.of(record).kill(record.sandbox_id, grace_s=record.grace_s)
        if record.ended_because is None or not record.live:  # Otherwise the next action reports the end first.
            await self._record_ended(record.sandbox_id, process)

    async def _record_ended(self, sandbox_id: str, process: ProcessState | None) -> None:
        state = "fenced" if self._fences.get(sandbox_id) else "stopped"
        await self._sandboxes.change(
            sandbox_id,
            lambda now: now.moved(state, exit_code=process.exit_code if process else None) if now.live else now,
        )

    async def _discard(self, record: SandboxRecord) -> None:
        """Remove a sandbox whose epoch was ended before its worker was started."""
        await self._providers.of(record).delete(record.sandbox_id)
        await self._sandboxes.change(record.sandbox_id, lambda now: now.moved("fenced") if now.live else now)

    async def _delete(self, record: SandboxRecord) -> None:
        process = await self._providers.of(record).kill(record.sandbox_id, grace_s=record.grace_s)
        # The log is closed only after the worker has ended, so that the log still accepts the worker's last events.
        closed = control(record.owner, FrameKind.CLOSED, Closed(reason=record.reason))
        try:
            await self._log.append([closed], deadline_s=APPEND_S)
        except Gone as gone:
            log.warning("log of a sandbox refused its `closed` frame", sandbox_id=record.sandbox_id, error=str(gone))
        await self._providers.of(record).delete(record.sandbox_id)
        code, at = process.exit_code if process else record.exit_code, self._now()
        await self._sandboxes.change(record.sandbox_id, lambda now: suspended(now.moved("deleted", exit_code=code), at))
