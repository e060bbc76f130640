"""Fences a sandbox: ends its epoch in the sandbox's log, so that no later write of its worker is stored.

```
command ──▶ entry in the bucket `fence` ──▶ `fenced` frame in the log ──▶ answer
```
The bucket entry is written first, so that every replica refuses requests of the worker before they reach the log. The
`fenced` frame (an append to the log) makes the fence certain. A request that a replica accepted shortly before may
still append to the log, but only before this frame, because the log is written by compare-and-set. So after the answer
nothing of this epoch is stored.

If the process dies between the two writes, no answer is sent, and the agent manager repeats the command. Both writes
may be repeated: the bucket keeps the first fence, and a log that has ended accepts no second terminal frame. A sandbox
may be fenced before it is created. The `fenced` frame is then the first frame in its log, and a later creation finds
this frame and starts no worker.
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
    """Handles the command that ends the epoch of a sandbox, even if the sandbox does not exist yet."""

    def __init__(self, log: SandboxLog, fences: FenceStore, now: Clock) -> None:
        self._log, self._fences, self._now = log, fences, now

    async def fence(self, command: FenceSandbox) -> SandboxAccepted:
        """End the epoch of a sandbox. After this returns, no write of that epoch is stored. May be repeated.

        Raises `InvalidMessage`, `Conflict` if the sandbox belongs to another attempt, or `Unavailable`.
        """
        for field in ("sandbox_id", "task_id", "agent_id"):
            token(getattr(command, field), field)
        if command.epoch < 1:
            raise InvalidMessage("epoch must be 1 or more", field="$.epoch")
        # The log is read before the fence is stored, because a wrong command must not end the epoch of another attempt.
        tail = await self._log.tail(command.sandbox_id)
        if tail is not None and (tail.epoch, tail.task_id) != (command.epoch, command.task_id):
            raise Conflict(
                "the sandbox belongs to another attempt; send that attempt's task and epoch", field="$.epoch"
            )
        fence = Fence(epoch=command.epoch, reason=command.reason, at=self._now())
        await self._fences.add(command.sandbox_id, fence)
        owner = LogOwner(
            command.sandbox_id, command.task_id, tail.agent_id if tail else command.agent_id, command.epoch
        )
        # The `fenced` frame is appended even if the bucket had this fence already, because an earlier process may have
        # died after it had written the bucket's entry and before it appended the frame.
        fenced = control(owner, FrameKind.FENCED, Fenced(reason=command.reason))
        await self._log.append([fenced], deadline_s=_APPEND_S)
        return SandboxAccepted(sandbox_id=command.sandbox_id, state="fenced")
