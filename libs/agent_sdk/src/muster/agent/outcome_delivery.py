"""Delivers the outcomes of messages to the managers: each until a manager has replied that the outcome is stored.

The outcomes are in memory and survive the loss of a connection. If the process dies before an outcome is stored, the
manager reports that the agent died while it had the message.

    add --due--> sent to `agent.<id>.response` --reply--> forgotten
           ^                |
           +-- no reply: again after 0.5 to 10 s
"""

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from muster.agent.auto_reset_event import AutoResetEvent
from muster.common.contract import encode
from muster.common.contracts.agent_process import AgentAnswered
from muster.common.faults import TimedOut, Unavailable

if TYPE_CHECKING:
    from muster.common.bus.connection import Bus

CONFIRM_AFTER_S = 2.5
"""Seconds after which an outcome is delivered that was also the reply to the manager's request.

The manager waits 2 s for the reply. Later, it has stored the reply, or has not received it.
"""
MOST_BYTES = 16 << 20
"""Most bytes of outcomes that wait for delivery. Beyond, the oldest outcome is dropped with a warning."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_REPLY_WITHIN_S = 2.0

logger = logging.getLogger(__name__)


class UndeliveredOutcome(msgspec.Struct):
    """An outcome that no manager has confirmed, and the time of the event loop at which it is sent next."""

    subject: str
    body: bytes
    due_s: float
    pause_s: float = _FIRST_PAUSE_S


class OutcomeDelivery:
    """Sends outcomes of messages while there is a connection, and keeps them while there is none."""

    def __init__(self) -> None:
        self._waiting: dict[str, UndeliveredOutcome] = {}
        self._bytes = 0
        self._added = AutoResetEvent()

    def add(self, outcome: AgentAnswered, *, after_s: float) -> None:
        """Deliver the outcome of a message after `after_s` seconds. Replaces an earlier outcome of the same message."""
        self._forget(outcome.message_id)
        due_s = asyncio.get_running_loop().time() + after_s
        new = UndeliveredOutcome(outcome.subject, encode(outcome), due_s)
        self._waiting[outcome.message_id] = new
        self._bytes += len(new.body)
        while self._bytes > MOST_BYTES:
            oldest = next(iter(self._waiting))
            self._forget(oldest)
            logger.warning(
                "outcome of a message dropped, too many wait for delivery", extra={"fields": {"message_id": oldest}}
            )
        self._added()

    async def run(self, bus: "Bus") -> None:
        """Deliver each outcome when it is due, until cancelled."""
        while True:
            now_s = asyncio.get_running_loop().time()
            for message_id, outcome in list(self._waiting.items()):
                if outcome.due_s <= now_s and bus.connected.is_set():
                    await self._deliver(bus, message_id, outcome)
            try:
                async with asyncio.timeout_at(min((one.due_s for one in self._waiting.values()), default=None)):
                    await self._added.wait()
            except TimeoutError:
                if not bus.connected.is_set():
                    await bus.connected.wait()

    async def flush(self, bus: "Bus") -> None:
        """Deliver all outcomes now, each with one try. The process calls this before it ends."""
        for message_id, outcome in list(self._waiting.items()):
            await self._deliver(bus, message_id, outcome)

    async def _deliver(self, bus: "Bus", message_id: str, outcome: UndeliveredOutcome) -> None:
        try:
            await bus.call(outcome.subject, outcome.body, timeout_s=_REPLY_WITHIN_S)
        except (Unavailable, TimedOut) as away:
            outcome.due_s = asyncio.get_running_loop().time() + outcome.pause_s
            outcome.pause_s = min(outcome.pause_s * 2, _LONGEST_PAUSE_S)
            logger.debug("outcome of a message not confirmed", extra={"fields": {"why": str(away)}})
        else:
            if self._waiting.get(message_id) is outcome:
                self._forget(message_id)

    def _forget(self, message_id: str) -> None:
        if gone := self._waiting.pop(message_id, None):
            self._bytes -= len(gone.body)
