"""Fences a sandbox: ends its epoch, so that no later write of its worker is stored.

```
command ──▶ entry in the bucket `fence` ──▶ `fenced` frame in the log ──▶ answer
```
The bucket entry comes first, so that every replica refuses requests of the worker before they reach the log. The
frame makes the fence certain: a request that was admitted just before may still append, but only before the frame,
because the log is written by compare-and-set. So after the answer nothing of this epoch is stored.

If the process dies between the two writes, no answer is sent and the manager repeats the command. Both writes are
idempotent: the bucket keeps the first fence, and a log that has ended takes no second terminal frame. A sandbox may be
fenced before it was created; the frame is then the first one in its log, and a late creation finds it.
"""

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
    """Handles the command that fences a sandbox, whether the sandbox exists yet or not."""

    def __init__(self, log: SandboxLog, fences: FenceStore, now: Clock) -> None:
        self._log, self._fences, self._now = log, fences, now

    async def fence(self, command: FenceSandbox) -> SandboxAccepted:
        """End the epoch of a sandbox. When this returns, no write of that epoch can be stored any more. Idempotent.

        Raises `InvalidMessage`, `Conflict` if the sandbox belongs to another attempt, or `Unavailable`.
        """
        for field in ("sandbox_id", "task_id", "agent_id"):
            token(getattr(command, field), field)
        if command.epoch < 1:
            raise InvalidMessage("epoch must be 1 or more", field="$.epoch")
        # Checked before the fence is stored: a wrong command must not end the epoch of another attempt.
        tail = await self._log.tail(command.sandbox_id)
        if tail is not None and (tail.epoch, tail.task_id) != (command.epoch, command.task_id):
            raise Conflict("this sandbox belongs to another attempt, so there is nothing to fence", field="$.epoch")
        fence = Fence(epoch=command.epoch, reason=command.reason, at=self._now())
        await self._fences.add(command.sandbox_id, fence)
        owner = LogOwner(
            command.sandbox_id, command.task_id, tail.agent_id if tail else command.agent_id, command.epoch
        )
        # Appended even if the bucket had the fence: an earlier try may have died between the two writes.
        fenced = control(owner, FrameKind.FENCED, Fenced(reason=command.reason))
        await self._log.append([fenced], deadline_s=_APPEND_S)
        return SandboxAccepted(sandbox_id=command.sandbox_id, state="fenced")
