"""Each loop has an event that is set when a transaction, of whichever replica, changed something."""

import asyncio

from muster.agent_manager.database.engine import CHANGED
from muster.common.postgres.listening import NoticeListener


class ChangeNotices:
    """Wakes whoever asked for a `waker`. Missed notices do no harm: the loops look again by themselves."""

    def __init__(self, url: str) -> None:
        self._wakers: list[asyncio.Event] = []
        self._listener = NoticeListener(url, CHANGED, told=lambda _: self._wake(), again=self._wake)

    def waker(self) -> asyncio.Event:
        """A new event, set at each notice and each reconnection."""
        waker = asyncio.Event()
        self._wakers.append(waker)
        return waker

    async def run(self) -> None:
        """Listen for ever, through outages. To be supervised."""
        await self._listener.run()

    def _wake(self) -> None:
        for waker in self._wakers:
            waker.set()
