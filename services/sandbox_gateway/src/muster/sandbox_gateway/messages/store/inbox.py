"""The inbox of every sandbox: stored messages, and a bell that wakes whoever waits for one."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from weakref import WeakValueDictionary

import msgspec

from muster.common.bus.connection import Bus, Incoming
from muster.common.bus.headers import MESSAGE_ID
from muster.common.bus.journal import Journal
from muster.common.contract import decode, encode, token
from muster.common.contracts.doors import InboxMessage
from muster.common.contracts.gateway import SendMessage
from muster.common.contracts.sandbox_log import partition
from muster.sandbox_gateway.streams import INBOX

_REMEMBERED = 20_000


def _subject(sandbox_id: str, last: str) -> str:
    return f"sandbox.{partition(sandbox_id)}.{token(sandbox_id, 'sandbox_id')}.{last}"


class InboxNotifier:
    """Wakes the long polls of one sandbox.

    It rings on a subject of its own, after JetStream has acknowledged: a core subscriber of the inbox subject itself
    hears a message before the stream has it, and would look too early.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # Weak: the polls that wait hold an event, and it goes with the last of them.
        self._waiting: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self.closing = False

    def waiting(self, sandbox_id: str) -> asyncio.Event:
        """The event that is set at the next ring, for as long as the caller holds it. Take it *before* looking."""
        return self._waiting.setdefault(sandbox_id, asyncio.Event())

    def ring(self, sandbox_id: str) -> None:
        """Wake this process's polls of a sandbox."""
        if event := self._waiting.pop(sandbox_id, None):
            event.set()

    def ring_all(self) -> None:
        """Wake all: something may have been missed."""
        for sandbox_id in list(self._waiting):
            self.ring(sandbox_id)

    def close(self) -> None:
        """Send everybody home: this process stops."""
        self.closing = True
        self.ring_all()

    async def ring_everywhere(self, sandbox_id: str) -> None:
        """Wake the polls of a sandbox in every replica."""
        await self._bus.send(_subject(sandbox_id, "bell"), b"")

    async def run(self) -> None:
        """Listen, for ever."""

        async def rung(message: Incoming) -> None:
            self.ring(message.subject.split(".")[2])

        subscription = await self._bus.subscribe("sandbox.*.*.bell", rung)
        self._bus.on_reconnect(self.ring_all)
        try:
            await asyncio.Event().wait()
        finally:
            await subscription.unsubscribe()


class InboxStore:
    """What was said to sandboxes."""

    def __init__(self, bus: Bus) -> None:
        self._bus, self._journal = bus, Journal(bus)
        self._known: OrderedDict[str, set[str]] = OrderedDict()

    async def put(self, message: SendMessage) -> int:
        """Store a message, once by its id however late it is sent again. Returns its position."""
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
        return await self._journal.store_raw(_subject(message.sandbox_id, "inbox"), encode(stored), headers)

    async def known(self, sandbox_id: str, message_ids: Sequence[str]) -> list[str]:
        """Those of the ids that name a message to this sandbox, in order."""
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
        """Every message after a position, oldest first."""
        found: list[InboxMessage] = []
        async for stored in self._journal.replay(INBOX, _subject(sandbox_id, "inbox"), after=position):
            body = decode(stored.body, InboxMessage)
            found.append(_placed(body, stored.position))
        return found


def _placed(message: InboxMessage, position: int) -> InboxMessage:
    return msgspec.structs.replace(message, position=position)
