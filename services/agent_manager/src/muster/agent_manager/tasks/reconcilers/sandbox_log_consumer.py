"""Applies the frames of sandbox logs to attempts and tasks. A frame is one append to the log of a sandbox.

Each effect reads the stored state first. So a frame that arrives twice, or after a later frame, changes nothing.
All replicas of the manager share the durable JetStream consumers.
"""

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.tables import LONGEST_ISOLATION
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.tasks.store import attempts, replacements
from muster.common.bus.message_store import Stored
from muster.common.contract import decode
from muster.common.contracts.model_calls import ModelCalled, ModelFailed
from muster.common.contracts.sandbox_log import Closed, Finished, Frame, FrameHead, FrameKind, Opened

MOST_REMEMBERED = 4_096
"""The number of running sandboxes in memory. For each forgotten sandbox, the next frame costs one database read."""


class SandboxLogConsumer:
    """Handles the frames of each sandbox log that change an attempt, and of the `events` frames only the first."""

    def __init__(self, database: ManagerDatabase, settings: ManagerSettings) -> None:
        self._database, self._settings = database, settings
        self._running: dict[str, None] = {}
        """Ids of running sandboxes, oldest first: later frames with events of these sandboxes are ignored."""

    async def take(self, stored: Stored) -> None:
        """Apply one frame of a sandbox log to its attempt and task."""
        if not stored.subject.endswith(".log"):
            return
        head = decode(stored.body, FrameHead)
        match head.kind:
            case FrameKind.OPENED:
                await self._opened(decode(stored.body, Frame))
            case FrameKind.EVENTS if head.sandbox_id not in self._running:
                await self._began(head)
                self._remember(head.sandbox_id)
            case FrameKind.MODEL_FAILED:
                await self._model_failed(decode(stored.body, Frame))
            case FrameKind.FINISHED:
                await self._finished(decode(stored.body, Frame))
            case FrameKind.CLOSED:
                self._running.pop(head.sandbox_id, None)
                await self._closed(decode(stored.body, Frame))
            case FrameKind.FENCED:  # A replacement has requested this fence, and stores the new states itself.
                self._running.pop(head.sandbox_id, None)
            case _:
                pass

    def _remember(self, sandbox_id: str) -> None:
        """Remember a running sandbox. If more than `MOST_REMEMBERED` are remembered, forget the oldest sandbox.

        Another replica may handle the end of a sandbox, so this process does not see every end.
        """
        self._running[sandbox_id] = None
        if len(self._running) > MOST_REMEMBERED:
            del self._running[next(iter(self._running))]

    async def _opened(self, frame: Frame) -> None:
        isolation = decode(bytes(frame.body), Opened).isolation
        async with self._database.begin() as tx:
            if found := await attempts.of_sandbox(tx, frame.sandbox_id):
                task, attempt = found
                lasts_s = task.spec.time_limit_s + self._settings.timeout_grace_s
                await attempts.opened(tx, attempt, frame.at, lasts_s=lasts_s, isolation=isolation[:LONGEST_ISOLATION])

    async def _began(self, head: FrameHead) -> None:
        async with self._database.begin() as tx:
            if found := await attempts.of_sandbox(tx, head.sandbox_id):
                await attempts.running(tx, *found)

    async def _finished(self, frame: Frame) -> None:
        async with self._database.begin() as tx:
            if found := await attempts.of_sandbox(tx, frame.sandbox_id):
                await attempts.finished(tx, *found, decode(bytes(frame.body), Finished))

    async def _model_failed(self, frame: Frame) -> None:
        """Store a failed model call, and end the attempt if a limit of the task is reached."""
        failed = decode(bytes(frame.body), ModelFailed)
        async with self._database.begin() as tx:
            found = await attempts.of_sandbox(tx, frame.sandbox_id)  # Locks the task before the attempt.
            await attempts.last_call(tx, frame.sandbox_id, failed.step, failed)
            if found and failed.limit is not None:
                await replacements.begin(
                    tx, *found, reason=failed.error, ends="fenced", then="fail", limit=failed.limit
                )

    async def _closed(self, frame: Frame) -> None:
        """Replace a live attempt whose log was closed: another program has deleted the sandbox."""
        async with self._database.begin() as tx:
            if found := await attempts.of_sandbox(tx, frame.sandbox_id):
                reason = f"the sandbox was closed before it finished: {decode(bytes(frame.body), Closed).reason}"
                await replacements.begin(tx, *found, reason=reason, ends="lost", then="retry")


class UsageRecorder:
    """Adds the tokens and costs of model calls to the attempts that made the calls."""

    def __init__(self, database: ManagerDatabase) -> None:
        self._database = database

    async def take(self, stored: Stored) -> None:
        """Count one model call in the same transaction as its event id, so that a repeated delivery counts once."""
        call = decode(stored.body, ModelCalled)
        async with self._database.begin() as tx:
            await attempts.meter(tx, "MODEL_CALLS", call)
