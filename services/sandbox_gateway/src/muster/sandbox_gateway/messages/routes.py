"""The endpoint `inbox`: returns the messages of a sandbox to its worker, or waits until a message arrives."""

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime

from starlette.responses import Response

from muster.common.clock import Clock
from muster.common.contracts.worker_api import InboxMessage, InboxPage
from muster.sandbox_gateway.http.access import WorkerAccess
from muster.sandbox_gateway.http.request import WorkerRequest, answer
from muster.sandbox_gateway.messages.store.inbox import InboxStore
from muster.sandbox_gateway.messages.store.notifier import InboxNotifier
from muster.sandbox_gateway.sandbox_log.domain.post_checks import MOST_SEQ
from muster.sandbox_gateway.sandboxes.domain.tokens import SandboxClaims

LONGEST_WAIT_S = 30.0
_AFTER_EXPIRY_S = 0.1
"""A wait ends shortly after the token's expiry, so that the next check refuses the token."""
_EARLIER, _LONG_S = 0.25, 10.0
"""The largest share of a wait of at least `_LONG_S` seconds by which it ends earlier.

Without it, the workers that a restarted gateway has made connect at the same time would all ask again at the same time.
"""


class InboxRoutes:
    """The HTTP endpoint `inbox`, from which workers read the messages to their agents."""

    def __init__(
        self,
        inbox: InboxStore,
        notifier: InboxNotifier,
        access: WorkerAccess,
        now: Clock,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._inbox, self._notifier, self._access, self._now = inbox, notifier, access, now
        self._chance = chance

    async def inbox(self, request: WorkerRequest, sandbox_id: str) -> Response:
        """Return the sandbox's messages after the position `after`. Wait up to `wait_s` seconds if there is none."""
        claims = self._access.authorize(request, sandbox_id=sandbox_id)
        await self._access.check_open(claims, request)
        after = int(request.number("after", 0, most=MOST_SEQ))
        loop = asyncio.get_running_loop()
        wait_s = request.number("wait_s", 0, most=LONGEST_WAIT_S)
        until = loop.time() + wait_s * (1 - (_EARLIER * self._chance() if wait_s >= _LONG_S else 0))
        while True:
            woken = self._notifier.next_message(sandbox_id)
            self._access.check_again(claims)
            offered = await self._offered(claims, after, woken)
            left = min(until - loop.time(), claims.exp - self._now().timestamp() + _AFTER_EXPIRY_S)
            if offered or left <= 0 or self._notifier.closing:
                return answer(InboxPage(messages=offered))
            try:
                async with asyncio.timeout(left):
                    await woken.wait()
            except TimeoutError:
                continue

    async def _offered(self, claims: SandboxClaims, after: int, woken: asyncio.Event) -> list[InboxMessage]:
        """Return the messages after a position for this worker. Does not read an inbox that is known to be empty."""
        if self._notifier.is_empty(claims.sbx, after):
            return []
        offered = deliverable(await self._inbox.after(claims.sbx, after), claims.epoch, self._now())
        if not offered:
            self._notifier.note_empty(claims.sbx, after, woken)
        return offered


def deliverable(messages: Sequence[InboxMessage], epoch: int, now: datetime) -> list[InboxMessage]:
    """Return the messages that were sent to this epoch of the sandbox and have not expired."""
    return [message for message in messages if message.epoch == epoch and message.expires_at > now]
