"""Stores messages that a consumer could not handle in the stream `DEAD_LETTERS`, with the reason."""

import base64
from datetime import datetime

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore, Stored
from muster.common.bus.streams import DEAD_LETTERS, ensure_stream
from muster.common.contract import Event


class DeadLetter(Event, subject="deadletter.{stream}"):
    """One message that a consumer could not handle. `body_base64` is the message's body."""

    stream: str
    position: int
    original_subject: str
    consumer: str
    why: str
    at: datetime
    body_base64: str


class DeadLetters:
    """Stores messages that consumers could not handle."""

    def __init__(self, bus: Bus) -> None:
        self._bus, self._message_store = bus, MessageStore(bus)

    async def ensure(self) -> None:
        """Create the stream `DEAD_LETTERS` if it does not exist."""
        await ensure_stream(self._bus, DEAD_LETTERS)

    async def bury(self, stream: str, consumer: str, stored: Stored, why: str) -> None:
        """Store a message that `consumer` could not handle. Repeated calls store the message only once."""
        letter = DeadLetter(
            stream=stream,
            position=stored.position,
            original_subject=stored.subject,
            consumer=consumer,
            why=why,
            at=self._bus.now(),
            body_base64=base64.b64encode(stored.body).decode(),
        )
        await self._message_store.store(letter, f"{stream}-{stored.position}-{consumer}")
