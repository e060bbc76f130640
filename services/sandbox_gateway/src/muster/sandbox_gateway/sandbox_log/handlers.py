"""Ending an epoch: the bucket first, so that every door refuses; then the frame, which makes it certain."""

from muster.common.clock import Clock
from muster.common.contract import token
from muster.common.contracts.gateway import FenceSandbox, SandboxAccepted
from muster.common.contracts.sandbox_log import Fenced, FrameKind
from muster.common.faults import Conflict, InvalidMessage
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner, control
from muster.sandbox_gateway.sandbox_log.store.fences import Fence, FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog

FENCE_S = 8.0
_APPEND_S = 6.0


class FenceRequests:
    """Fences sandboxes, born or not."""

    def __init__(self, log: SandboxLog, fences: FenceStore, now: Clock) -> None:
        self._log, self._fences, self._now = log, fences, now

    async def fence(self, command: FenceSandbox) -> SandboxAccepted:
        """After the answer nothing of this epoch is stored any more. Idempotent."""
        for field in ("sandbox_id", "task_id", "agent_id"):
            token(getattr(command, field), field)
        if command.epoch < 1:
            raise InvalidMessage("epochs count from 1", field="$.epoch")
        tail = await self._log.tail(command.sandbox_id)
        if tail is not None and (tail.epoch, tail.task_id) != (command.epoch, command.task_id):
            raise Conflict("this sandbox belongs to another attempt: moot", field="$.epoch")
        fence = Fence(epoch=command.epoch, reason=command.reason, at=self._now())
        await self._fences.add(command.sandbox_id, fence)
        whose = LogOwner(
            command.sandbox_id, command.task_id, tail.agent_id if tail else command.agent_id, command.epoch
        )
        fenced = control(whose, FrameKind.FENCED, Fenced(reason=command.reason))
        await self._log.append([fenced], deadline_s=_APPEND_S)
        return SandboxAccepted(sandbox_id=command.sandbox_id, state="fenced")
