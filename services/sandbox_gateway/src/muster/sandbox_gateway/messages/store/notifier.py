"""Wakes requests that wait for a message in an inbox, in every replica.

A long poll may wait at one replica while another replica stores the message. So each stored message is followed by an
empty core NATS message on `sandbox.<pp>.<id>.bell`, to which every replica subscribes. The wake-up has a subject of
its own and is published after JetStream has acknowledged the message: a core subscriber of the inbox subject itself
would receive the message before the stream has stored it, and would then read an inbox without it.

A wake-up only says "read the inbox again"; the inbox decides. A wake-up is lost if the replica dies between storing
the message and publishing the wake-up, or while NATS is disconnected. Both cases are covered: a long poll reads the
inbox again every few seconds (`messages.routes.LOOK_AGAIN_S`), and a reconnect wakes all polls.
"""

import asyncio
from weakref import WeakValueDictionary

from muster.common.bus.connection import Bus, Incoming
from muster.common.contract import token
from muster.common.contracts.sandbox_log import partition


class InboxNotifier:
    """The waiting long polls of this process, by sandbox, and the subscription that wakes them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # Weak references: only waiting polls hold an event, so it disappears with the last of them.
        self._waiting: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self.closing = False
        """Whether this process stops; a long poll must then answer at once."""

    def next_message(self, sandbox_id: str) -> asyncio.Event:
        """Return the event that the next wake-up of this sandbox sets.

        Take the event *before* reading the inbox, and hold it while waiting: a message that is stored between the
        read and the wait then still ends the wait.
        """
        return self._waiting.setdefault(sandbox_id, asyncio.Event())

    def wake(self, sandbox_id: str) -> None:
        """Wake the long polls of a sandbox in this process."""
        if event := self._waiting.pop(sandbox_id, None):
            event.set()

    def wake_all(self) -> None:
        """Wake the long polls of all sandboxes in this process, because wake-ups may have been lost."""
        for sandbox_id in list(self._waiting):
            self.wake(sandbox_id)

    def close(self) -> None:
        """End all long polls, because this process stops. The workers send the request again, to another replica."""
        self.closing = True
        self.wake_all()

    async def wake_everywhere(self, sandbox_id: str) -> None:
        """Publish a wake-up, which wakes the long polls of a sandbox in every replica."""
        await self._bus.send(f"sandbox.{partition(sandbox_id)}.{token(sandbox_id, 'sandbox_id')}.bell", b"")

    async def run(self) -> None:
        """Receive wake-ups from all replicas, until cancelled."""

        async def received(message: Incoming) -> None:
            self.wake(message.subject.split(".")[2])

        subscription = await self._bus.subscribe("sandbox.*.*.bell", received)
        self._bus.on_reconnect(self.wake_all)
        try:
            await asyncio.Event().wait()
        finally:
            await subscription.unsubscribe()
