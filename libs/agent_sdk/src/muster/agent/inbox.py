"""Passes steering messages from the gateway to the agent, each message once.

Every launch reads the inbox from the beginning. The conversation on disk says which messages were delivered before, so
no position has to be stored. If the worker dies during a delivery, the message is either in the conversation on disk
(the relaunch skips it) or not (the relaunch delivers it, unless it has expired).
"""

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
    """Polls the gateway's inbox, and delivers the messages of this epoch that are new and not expired."""

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
        self._known_ids = set(delivered)
        self._position = 0
        self._order = asyncio.Lock()

    async def run(self) -> None:
        """Deliver messages until the task is cancelled.

        The gateway refuses an expired token here, but still accepts it for events. Then this method returns, and the
        run continues without further steering messages.
        """
        try:
            async with asyncio.TaskGroup() as deliveries:
                while True:
                    await self._poll(deliveries)
        except* Rejected as refused:
            logger.warning(
                "inbox poll refused, no more steering messages",
                extra={"fields": {"why": [str(why) for why in refused.exceptions]}},
            )

    async def _poll(self, deliveries: asyncio.TaskGroup) -> None:
        page = await self._gateway.inbox(self._position, WAIT_S)
        for message in page.messages:
            self._position = max(self._position, message.position)
            if self._is_new(message):
                self._known_ids.add(message.message_id)  # before the delivery: the gateway may offer it again meanwhile
                deliveries.create_task(self._deliver_in_order(message))
        if not page.messages:  # a gateway that shuts down answers without waiting: do not flood it with requests
            await asyncio.sleep(_BETWEEN_EMPTY_PAGES_S)

    def _is_new(self, message: InboxMessage) -> bool:
        late = message.expires_at <= self._now()
        return message.message_id not in self._known_ids and message.epoch == self._epoch and not late

    async def _deliver_in_order(self, message: InboxMessage) -> None:
        """Deliver messages one at a time and in order; an urgent message does not wait for earlier ones."""
        if message.urgent:
            await self._try(message)
        else:
            async with self._order:
                await self._try(message)

    async def _try(self, message: InboxMessage) -> None:
        """Deliver a message. A failed delivery is not repeated: the message may already be in the conversation."""
        try:
            await self._deliver(message)
        except EpochFenced:
            raise
        except Exception:  # one failed delivery must not end the task
            logger.exception("steering message delivery failed", extra={"fields": {"message_id": message.message_id}})
