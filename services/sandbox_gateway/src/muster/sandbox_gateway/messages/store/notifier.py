"""Wakes the long polls that wait for a message in a sandbox's inbox, in every replica of the gateway.

A long poll may wait at one replica while another replica stores the message. So the replica that has stored a message
publishes an empty core NATS message, the wake-up, on `sandbox.<pp>.<id>.bell`. Every replica subscribes to that
subject. The wake-up is published only after JetStream has acknowledged the message. A core subscriber of the inbox's
own subject would receive the message before the stream has stored it, and would then read an inbox without the message.

After a wake-up a long poll reads the inbox again; the wake-up itself carries no message. A wake-up is lost if the
replica dies between storing the message and publishing the wake-up, or while NATS is disconnected. So every replica
compares the stream with the position of the last message that it has seen, every `LOOK_AGAIN_S` seconds, and wakes the
long polls of the sandboxes with newer messages. This is one request to NATS, however many long polls wait: if each long
poll read its inbox again, 10,000 of them would use a whole core. A reconnect wakes all long polls.

For the same reason a worker's next long poll does not read an inbox that was empty at the last read and for which no
wake-up has arrived since, for at most a minute. A wake-up that was lost between two long polls is found by the next
comparison too.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakValueDictionary

import structlog

from muster.common.bus.connection import Bus, Incoming
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import stream_state
from muster.common.contract import token
from muster.common.contracts.sandbox_log import partition
from muster.common.faults import TimedOut, Unavailable
from muster.sandbox_gateway.streams import INBOX

log = structlog.get_logger()

LOOK_AGAIN_S = 5.0
"""Seconds between two looks for stored messages whose wake-up was lost."""
EMPTY_S = 60.0
"""Seconds for which an inbox that was read as empty is not read again. On a cluster, a read may return old data."""
_REMEMBERED = 20_000


class InboxNotifier:
    """The long polls that wait in this process, by sandbox, and the NATS subscription that wakes them."""

    def __init__(
        self, bus: Bus, *, look_again_s: float = LOOK_AGAIN_S, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._bus = bus
        # This dict has weak references, so that an event is removed when no long poll waits for it any more.
        self._waiting: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._empty_after: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._now_s = now_s
        self._message_store = MessageStore(bus)
        self._seen_reconnects: int = 0
        self._seen, self._look_again_s = -1, look_again_s
        self.closing = False
        """Whether this process is stopping; a long poll must then answer at once."""

    def next_message(self, sandbox_id: str) -> asyncio.Event:
        """Return the event that is set by the next wake-up of this sandbox.

        The caller takes the event *before* reading the inbox, and keeps it while waiting. Then a message that is stored
        between the read and the wait still ends the wait.
        """
        return self._waiting.setdefault(sandbox_id, asyncio.Event())

    def note_empty(self, sandbox_id: str, after: int, since: asyncio.Event) -> None:
        """Remember that a read found no message after a position. `since` is the event that was taken before the read.

        Nothing is remembered if a wake-up arrived during the read.
        """
        if since.is_set():
            return
        self._empty_after[sandbox_id] = after, self._now_s()
        self._empty_after.move_to_end(sandbox_id)
        if len(self._empty_after) > _REMEMBERED:
            self._empty_after.popitem(last=False)

    def is_empty(self, sandbox_id: str, after: int) -> bool:
        """Whether a read found no message after this position lately, and no wake-up has arrived since."""
        position, noted_s = self._empty_after.get(sandbox_id, (-1, 0.0))
        return position == after and self._now_s() - noted_s < EMPTY_S

    def wake(self, sandbox_id: str) -> None:
        """Wake the long polls of a sandbox in this process."""
        self._empty_after.pop(sandbox_id, None)
        if event := self._waiting.pop(sandbox_id, None):
            event.set()

    def wake_all(self) -> None:
        """Wake the long polls of all sandboxes in this process, for example because wake-ups may have been lost."""
        self._empty_after.clear()
        for sandbox_id in list(self._waiting):
            self.wake(sandbox_id)

    def close(self) -> None:
        """End all long polls of this process before it stops. The workers send their requests again."""
        self.closing = True
        self.wake_all()

    async def wake_everywhere(self, sandbox_id: str) -> None:
        """Publish a message on NATS that wakes the long polls of a sandbox in every replica of the gateway."""
        await self._bus.send(f"sandbox.{partition(sandbox_id)}.{token(sandbox_id, 'sandbox_id')}.bell", b"")

    async def run(self) -> None:
        """Receive the wake-ups of all replicas from NATS and wake the long polls of this process, until cancelled."""

        async def received(message: Incoming) -> None:
            self.wake(message.subject.split(".")[2])

        subscription = await self._bus.subscribe("sandbox.*.*.bell", received)
        self._bus.on_reconnect(self.wake_all)
        try:
            while True:
                await self._look()
                await asyncio.sleep(self._look_again_s)
        finally:
            await subscription.unsubscribe()

    async def _look(self) -> None:
        """Wake the long polls of all sandboxes whose messages were stored since the last look.

        The positions of a stream that was created again begin at 1. This can only happen with a reconnect.
        """
        try:
            last = (await stream_state(self._bus, INBOX)).last_seq
            if last < self._seen or self._seen < 0 or self._bus.reconnects != self._seen_reconnects:
                self._seen, self._seen_reconnects = last, self._bus.reconnects
                self.wake_all()
            if last == self._seen:
                return
            async for stored in self._message_store.replay(INBOX, "sandbox.*.*.inbox", after=self._seen):
                self.wake(stored.subject.split(".")[2])
                self._seen = stored.position
        except (Unavailable, TimedOut) as error:
            log.debug("inbox stream could not be read, looking again", error=str(error))
