"""Applies the frames of sandbox logs to attempts and tasks.

Each effect reads the present state first, so a frame that is delivered twice, or after a later one, changes nothing
more. Replicas share the durable consumers.
"""

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.tables import LONGEST_ISOLATION
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.tasks.store import attempts, replacements
from muster.common.bus.journal import Stored
from muster.common.contract import decode
from muster.common.contracts.gateway import ModelCalled
from muster.common.contracts.sandbox_log import Closed, Finished, Frame, FrameHead, FrameKind, Opened

MOST_REMEMBERED = 4_096
"""How many running sandboxes are remembered. For a forgotten one the next frame costs one read of the database."""


class SandboxLogConsumer:
    """Handles frames of sandbox logs: `opened`, the first events, `finished`, `fenced` and `closed`."""

    def __init__(self, database: ManagerDatabase, settings: ManagerSettings) -> None:
        self._database, self._settings = database, settings
        self._running: dict[str, None] = {}
        """Sandboxes known to run, oldest first: of their frames only the last ones matter."""

    async def take(self, stored: Stored) -> None:
        """Apply one frame."""
        if not stored.subject.endswith(".log"):
            return
        head = decode(stored.body, FrameHead)
        match head.kind:
            case FrameKind.OPENED:
                await self._opened(decode(stored.body, Frame))
            case FrameKind.EVENTS if head.sandbox_id not in self._running:
                await self._began(head)
                self._remember(head.sandbox_id)
            case FrameKind.FINISHED:
                await self._finished(decode(stored.body, Frame))
            case FrameKind.CLOSED:
                self._running.pop(head.sandbox_id, None)
                await self._closed(decode(stored.body, Frame))
            case FrameKind.FENCED:  # a replacement of this service wrote this frame
                self._running.pop(head.sandbox_id, None)
            case _:
                pass

    def _remember(self, sandbox_id: str) -> None:
        """Remember a running sandbox. Forget the oldest of too many: another replica may have handled their ends."""
        self._running[sandbox_id] = None
        if len(self._running) > MOST_REMEMBERED:
            del self._running[next(iter(self._running))]

    async def _opened(self, frame: Frame) -> None:
        isolation = decode(bytes(frame.body), Opened).isolation
        async with self._database.begin() as tx:
            if found := await attempts.of_sandbox(tx, frame.sandbox_id):
                task, attempt = found
                lasts_s = task.spec.timeout_s + self._settings.timeout_grace_s
                await attempts.opened(tx, attempt, frame.at, lasts_s=lasts_s, isolation=isolation[:LONGEST_ISOLATION])

    async def _began(self, head: FrameHead) -> None:
        async with self._database.begin() as tx:
            if found := await attempts.of_sandbox(tx, head.sandbox_id):
                await attempts.running(tx, *found)

    async def _finished(self, frame: Frame) -> None:
        async with self._database.begin() as tx:
            if found := await attempts.of_sandbox(tx, frame.sandbox_id):
                await attempts.finished(tx, *found, decode(bytes(frame.body), Finished))

    async def _closed(self, frame: Frame) -> None:
        """Replace an attempt whose log was closed while the attempt was live: something else deleted the sandbox."""
        async with self._database.begin() as tx:
            if found := await attempts.of_sandbox(tx, frame.sandbox_id):
                reason = f"the sandbox was closed before it finished: {decode(bytes(frame.body), Closed).reason}"
                await replacements.begin(tx, *found, reason=reason, ends="lost", then="retry")


class UsageRecorder:
    """Adds the tokens and costs of model calls to attempts."""

    def __init__(self, database: ManagerDatabase) -> None:
        self._database = database

    async def take(self, stored: Stored) -> None:
        """Count one model call, in one transaction with its event id: a repeated delivery is not counted again."""
        call = decode(stored.body, ModelCalled)
        async with self._database.begin() as tx:
            await attempts.meter(tx, "MODEL_CALLS", call)
