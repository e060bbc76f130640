"""The steps of a sandbox's life. Each may be taken again after a crash in the middle of it."""

import structlog

from muster.common.clock import Clock
from muster.common.contracts.sandbox_log import Closed, FrameKind, Opened
from muster.common.faults import Gone, InvalidMessage
from muster.sandbox_gateway.providers.interface import WorkerProcess
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandbox_log.domain.frames import control
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.domain.handoff import claims, handoff
from muster.sandbox_gateway.sandboxes.domain.lifecycle import NextStep, SandboxRecord
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring
from muster.sandbox_gateway.sandboxes.store import SandboxStore

log = structlog.get_logger()

APPEND_S = 4.0
_ROOM_S = 30.0
"""How much longer a worker waits for a model's answer than its gateway: the gateway's word is the better one."""


class SandboxActions:
    """Takes one step at a time."""

    def __init__(
        self,
        sandboxes: SandboxStore,
        log: SandboxLog,
        fences: FenceStore,
        providers: Providers,
        keyring: Keyring,
        now: Clock,
        *,
        token_ttl_s: float,
        beat_running_s: float,
        beat_idle_s: float,
        model_deadline_s: float,
    ) -> None:
        self._sandboxes, self._log, self._fences = sandboxes, log, fences
        self._providers, self._keyring, self._now = providers, keyring, now
        self._token_ttl_s = token_ttl_s
        self._beat_running_s, self._beat_idle_s = beat_running_s, beat_idle_s
        self._model_deadline_s = model_deadline_s

    async def take(self, step: NextStep, record: SandboxRecord, process: WorkerProcess | None) -> None:
        """Take it."""
        match step:
            case NextStep.START:
                await self._start(record)
            case NextStep.ADOPT:
                await self._run(record.sandbox_id, process)
            case NextStep.STOP:
                await self._stop(record)
            case NextStep.SETTLE:
                await self._rest(record.sandbox_id, process)
            case NextStep.DISCARD:
                await self._discard(record)
            case NextStep.DELETE:
                await self._delete(record)
            case NextStep.REPORT | NextStep.REST:
                raise AssertionError(step)

    async def lose(self, record: SandboxRecord, process: WorkerProcess | None, reason: str) -> None:
        """Write down that its worker is gone, after the manager was told."""
        code = process.exit_code if process else None

        def lost(now: SandboxRecord) -> SandboxRecord:
            state = "error" if now.state == "creating" else "lost"
            return now.moved(state, error=reason, exit_code=code) if now.live else now

        await self._sandboxes.change(record.sandbox_id, lost)

    async def _start(self, record: SandboxRecord) -> None:
        asked = record.create
        opened = Opened(
            package=asked.package,
            model=asked.model,
            conversation_id=asked.conversation_id,
            isolation=await self._providers.of(record).isolation(),
        )
        try:
            await self._log.append([control(record.whose, FrameKind.OPENED, opened)], deadline_s=APPEND_S)
        except Gone:  # fenced before it was born
            await self._discard(record)
            return
        try:
            process = await self._launch(record)
        except InvalidMessage as refusal:
            await self._fail(record.sandbox_id, str(refusal), refused=True)
            return
        except OSError as error:  # a full disk, a missing path: the manager may try elsewhere
            process = WorkerProcess(running=False, error=str(error))
        if process.error and process.pid is None:
            await self._fail(record.sandbox_id, process.error)
            return
        await self._run(record.sandbox_id, process)

    async def _fail(self, sandbox_id: str, error: str, *, refused: bool = False) -> None:
        """Write down why it cannot be started; the next step reports it."""
        await self._sandboxes.change(sandbox_id, lambda now: now.moved(now.state, error=error, refused=refused))

    async def _launch(self, record: SandboxRecord) -> WorkerProcess:
        asked, provider = record.create, self._providers.of(record)
        place = await provider.ensure(asked)
        ttl_s = max(self._token_ttl_s, 2 * asked.timeout_s)
        token = self._keyring.sign(claims(asked, expires=int(self._now().timestamp() + ttl_s)))
        told = handoff(
            asked,
            token=token,
            gateway_url=place.gateway_url,
            gateway_socket=place.gateway_socket,
            workspace=place.workspace,
            state_dir=place.state_dir,
            repo_url=place.repo_url,
            beat_running_s=self._beat_running_s,
            beat_idle_s=self._beat_idle_s,
            model_deadline_s=self._model_deadline_s + _ROOM_S,
        )
        return await provider.launch(asked, told)

    async def _run(self, sandbox_id: str, process: WorkerProcess | None) -> None:
        assert process is not None
        await self._sandboxes.change(
            sandbox_id,
            lambda now: (
                now.moved("running", pid=process.pid, isolation=process.isolation) if now.state == "creating" else now
            ),
        )

    async def _stop(self, record: SandboxRecord) -> None:
        if record.live:
            await self._sandboxes.change(
                record.sandbox_id,
                lambda now: now.moved("stopping") if now.state in ("creating", "running") else now,
            )
        process = await self._providers.of(record).stop(record.sandbox_id, record.grace_s)
        await self._rest(record.sandbox_id, process)

    async def _rest(self, sandbox_id: str, process: WorkerProcess | None) -> None:
        state = "fenced" if self._fences.get(sandbox_id) else "stopped"
        await self._sandboxes.change(
            sandbox_id,
            lambda now: now.moved(state, exit_code=process.exit_code if process else None) if now.live else now,
        )

    async def _discard(self, record: SandboxRecord) -> None:
        """A late create found its fence: remove what was made."""
        await self._providers.of(record).delete(record.sandbox_id)
        await self._sandboxes.change(record.sandbox_id, lambda now: now.moved("fenced") if now.live else now)

    async def _delete(self, record: SandboxRecord) -> None:
        process = await self._providers.of(record).stop(record.sandbox_id, record.grace_s)
        closed = control(record.whose, FrameKind.CLOSED, Closed(reason=record.reason))
        try:
            await self._log.append([closed], deadline_s=APPEND_S)
        except Gone as gone:
            log.warning("the log of a deleted sandbox is another's", sandbox_id=record.sandbox_id, error=str(gone))
        await self._providers.of(record).delete(record.sandbox_id)
        code = process.exit_code if process else record.exit_code
        await self._sandboxes.change(record.sandbox_id, lambda now: now.moved("deleted", exit_code=code))
