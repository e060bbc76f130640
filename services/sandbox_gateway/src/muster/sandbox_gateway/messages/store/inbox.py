"""The inboxes of sandboxes: the messages to their agents, stored in the stream `INBOX`, one subject per sandbox."""

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.headers import MESSAGE_ID
from muster.common.bus.message_store import MessageStore
from muster.common.contract import decode, encode, token
from muster.common.contracts.gateway import SendMessage
from muster.common.contracts.sandbox_log import partition
from muster.common.contracts.worker_api import InboxMessage
from muster.sandbox_gateway.streams import INBOX

_REMEMBERED = 20_000


class InboxStore:
    """The messages to the agents of all sandboxes. A message's position is its sequence number in the stream."""

    def __init__(self, bus: Bus) -> None:
        self._bus, self._message_store = bus, MessageStore(bus)
        self._known: OrderedDict[str, set[str]] = OrderedDict()

    async def put(self, message: SendMessage) -> int:
        """Store a message and return its position. If its id is stored already, return the stored message's position.

        Two checks make sure that a message is stored only once. The inbox is read first, which finds a message of any
        age. If two requests store the message at the same time, JetStream drops the second one by its message id.
        """
        for known in await self.after(message.sandbox_id, 0):
            if known.message_id == message.message_id:
                return known.position
        stored = InboxMessage(
            message_id=message.message_id,
            epoch=message.epoch,
            kind=message.kind,
            urgent=message.urgent,
            text=message.text,
            sender=message.sender,
            expires_at=message.expires_at,
            position=0,
        )
        headers = self._bus.envelope.headers(stored, message.message_id)
        headers[MESSAGE_ID] = f"{message.sandbox_id}.{message.message_id}"
        return await self._message_store.store_raw(_subject(message.sandbox_id), encode(stored), headers)

    async def stored_ids(self, sandbox_id: str, message_ids: Sequence[str]) -> list[str]:
        """Return only the ids in `message_ids` whose messages are stored for this sandbox, in the same order."""
        if not message_ids:
            return []
        known = self._known.get(sandbox_id, set[str]())
        if not known.issuperset(message_ids):
            known = {message.message_id for message in await self.after(sandbox_id, 0)}
            self._known[sandbox_id] = known
            self._known.move_to_end(sandbox_id)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return [message_id for message_id in message_ids if message_id in known]

    async def after(self, sandbox_id: str, position: int) -> list[InboxMessage]:
        """Return all messages of a sandbox after a position in the stream, oldest first."""
        found: list[InboxMessage] = []
        async for stored in self._message_store.replay(INBOX, _subject(sandbox_id), after=position):
            body = decode(stored.body, InboxMessage)
            found.append(_with_position(body, stored.position))
        return found


def _with_position(message: InboxMessage, position: int) -> InboxMessage:
    return msgspec.structs.replace(message, position=position)


def _subject(sandbox_id: str) -> str:
    return f"sandbox.{partition(sandbox_id)}.{token(sandbox_id, 'sandbox_id')}.inbox"
