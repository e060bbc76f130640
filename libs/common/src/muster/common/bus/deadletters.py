"""Messages that could not be handled, stored with the reason in the stream `DEAD_LETTERS`."""

import base64
from datetime import datetime

from muster.common.bus.connection import Bus
from muster.common.bus.journal import Journal, Stored
from muster.common.bus.streams import DEAD_LETTERS, ensure_stream
from muster.common.contract import Event


class DeadLetter(Event, subject="deadletter.{stream}"):
    """One message that a consumer gave up; `body_base64` is its body."""

    stream: str
    position: int
    original_subject: str
    consumer: str
    why: str
    at: datetime
    body_base64: str


class DeadLetters:
    """Stores messages that consumers cannot handle."""

    def __init__(self, bus: Bus) -> None:
        self._bus, self._journal = bus, Journal(bus)

    async def ensure(self) -> None:
        """Create the stream if it does not exist."""
        await ensure_stream(self._bus, DEAD_LETTERS)

    async def bury(self, stream: str, consumer: str, stored: Stored, why: str) -> None:
        """Store `stored` once for each consumer, however often this is called."""
        letter = DeadLetter(
            stream=stream,
            position=stored.position,
            original_subject=stored.subject,
            consumer=consumer,
            why=why,
            at=self._bus.now(),
            body_base64=base64.b64encode(stored.body).decode(),
        )
        await self._journal.store(letter, f"{stream}-{stored.position}-{consumer}")
