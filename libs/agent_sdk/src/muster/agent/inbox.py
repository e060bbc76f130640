"""Receives steering messages from the gateway and passes each message to the agent once.

Every launch reads the gateway's inbox from the first message. The conversation on disk contains the earlier messages,
so no position has to be stored. If the worker dies during a delivery, the next launch looks for the message in the
conversation on disk. If the message is there, the launch skips it. Otherwise the launch delivers it, unless it has
expired.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from muster.agent.exit_codes import EpochFenced, Rejected
from muster.agent.gateway_client import GatewayClient
from muster.common.clock import Clock
from muster.common.contracts.worker_api import InboxMessage

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
        """Deliver steering messages until cancelled.

        If the worker's token has expired, the gateway refuses inbox requests, but still accepts events. Then this
        method returns, and the run continues without further steering messages.
        """
        try:
            async with asyncio.TaskGroup() as deliveries:
                while True:
                    await self._poll(deliveries)
        except* Rejected as refused:
            logger.warning(
                "gateway refused an inbox poll, no more steering messages",
                extra={"fields": {"why": [str(why) for why in refused.exceptions]}},
            )

    async def _poll(self, deliveries: asyncio.TaskGroup) -> None:
        page = await self._gateway.inbox(self._position, WAIT_S)
        for message in page.messages:
            self._position = max(self._position, message.position)
            if self._is_new(message):
                # Remember the id before the delivery, because the gateway may send the message again meanwhile.
                self._known_ids.add(message.message_id)
                deliveries.create_task(self._deliver_in_order(message))
        # A gateway that shuts down answers every poll at once. Without this pause, the worker would send it a flood of
        # polls.
        if not page.messages:
            await asyncio.sleep(_BETWEEN_EMPTY_PAGES_S)

    def _is_new(self, message: InboxMessage) -> bool:
        late = message.expires_at <= self._now()
        return message.message_id not in self._known_ids and message.epoch == self._epoch and not late

    async def _deliver_in_order(self, message: InboxMessage) -> None:
        """Deliver messages one at a time and in order. An urgent message does not wait for earlier ones."""
        if message.urgent:
            await self._try(message)
        else:
            async with self._order:
                await self._try(message)

    async def _try(self, message: InboxMessage) -> None:
        """Deliver a message.

        A failed delivery is not repeated, because the conversation may already contain the message.
        """
        try:
            await self._deliver(message)
        except EpochFenced:
            raise
        except Exception:  # One failed delivery must not end the task.
            logger.exception("steering message delivery failed", extra={"fields": {"message_id": message.message_id}})
