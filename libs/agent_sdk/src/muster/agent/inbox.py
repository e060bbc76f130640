"""Steering messages for this worker: each handed to the agent once, whatever is offered twice or comes too late."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from muster.agent.exits import EpochFenced, Rejected
from muster.agent.gateway_client import GatewayClient
from muster.common.clock import Clock
from muster.common.contracts.doors import InboxMessage

WAIT_S = 20.0
_BETWEEN_EMPTY_PAGES_S = 0.5

logger = logging.getLogger(__name__)


class Inbox:
    """Polls from the beginning at every launch: what the conversation already holds says what is new."""

    def __init__(
        self,
        gateway: GatewayClient,
        deliver: Callable[[InboxMessage], Awaitable[None]],
        *,
        epoch: int,
        delivered: set[str],
        now: Clock,
    ) -> None:
        self._gateway, self._deliver, self._epoch, self._now = gateway, deliver, epoch, now
        self._taken = set(delivered)
        self._position = 0
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Takes messages for as long as the agent runs.

        A token past its expiry is refused here while the events door still takes it: then no message comes any more,
        and the run goes on.
        """
        try:
            async with asyncio.TaskGroup() as deliveries:
                while True:
                    await self._poll(deliveries)
        except* Rejected as refused:
            logger.warning("the inbox is closed", extra={"fields": {"why": [str(why) for why in refused.exceptions]}})

    async def _poll(self, deliveries: asyncio.TaskGroup) -> None:
        page = await self._gateway.inbox(self._position, WAIT_S)
        for message in page.messages:
            self._position = max(self._position, message.position)
            if self._wanted(message):
                self._taken.add(message.message_id)
                deliveries.create_task(self._hand_over(message))
        if not page.messages:  # a gateway that drains answers at once, and must not be hammered
            await asyncio.sleep(_BETWEEN_EMPTY_PAGES_S)

    def _wanted(self, message: InboxMessage) -> bool:
        late = message.expires_at <= self._now()
        return message.message_id not in self._taken and message.epoch == self._epoch and not late

    async def _hand_over(self, message: InboxMessage) -> None:
        """In order, one at a time; but an urgent one must not wait behind one that waits for a tool to end."""
        if message.urgent:
            await self._try(message)
        else:
            async with self._turn:
                await self._try(message)

    async def _try(self, message: InboxMessage) -> None:
        """Delivered, or left to expire: the message may be half in the conversation, so it is not tried again."""
        try:
            await self._deliver(message)
        except EpochFenced:
            raise
        except Exception:  # a failed delivery is no reason to give up the task
            logger.exception("a message was not delivered", extra={"fields": {"message_id": message.message_id}})
