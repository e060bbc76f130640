"""Handles the command that sends a message to the agent in a sandbox."""

from muster.common.contract import token
from muster.common.contracts.gateway import MessageStored, SendMessage
from muster.common.contracts.sandbox_log import FrameKind
from muster.common.faults import Gone, InvalidMessage, NotFound
from muster.sandbox_gateway.messages.store.inbox import InboxStore
from muster.sandbox_gateway.messages.store.notifier import InboxNotifier
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.store import SandboxStore


class MessageRequests:
    """Stores messages in the inboxes of sandboxes, and wakes the workers' requests that wait for a message."""

    def __init__(
        self, sandboxes: SandboxStore, log: SandboxLog, fences: FenceStore, inbox: InboxStore, notifier: InboxNotifier
    ) -> None:
        self._sandboxes, self._log, self._fences = sandboxes, log, fences
        self._inbox, self._notifier = inbox, notifier

    async def send(self, command: SendMessage) -> MessageStored:
        """Store a message to the agent in a sandbox, and wake the long polls of this sandbox.

        A message with the same id is stored only once. Raises `Gone` if the epoch has ended or the run has finished,
        and `NotFound` if the sandbox is unknown.
        """
        token(command.sandbox_id, "sandbox_id")
        token(command.message_id, "message_id")
        if command.expires_at.tzinfo is None:
            raise InvalidMessage("the time has no time zone; write a UTC time that ends with Z", field="$.expires_at")
        await self._check_epoch(command)
        position = await self._inbox.put(command)
        await self._notifier.wake_everywhere(command.sandbox_id)
        return MessageStored(message_id=command.message_id, position=position)

    async def _check_epoch(self, command: SendMessage) -> None:
        if fence := self._fences.get(command.sandbox_id):
            raise Gone(f"the sandbox was fenced ({fence.reason}) and accepts no more messages")
        tail = await self._log.tail(command.sandbox_id)
        if tail is None:
            record = await self._sandboxes.get(command.sandbox_id)
            if record is None:
                raise NotFound(f"there is no sandbox {command.sandbox_id}", field="$.sandbox_id")
            epoch, ended = record.create.epoch, not record.live
        else:
            epoch, ended = tail.epoch, tail.kind.terminal or tail.kind is FrameKind.FINISHED
        if ended or epoch != command.epoch:
            raise Gone(f"epoch {command.epoch} of the sandbox has ended and accepts no more messages")
