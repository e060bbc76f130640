"""Wakes loops when a transaction of any replica has changed something, by LISTEN and NOTIFY."""

import asyncio

from muster.agent_manager.database.engine import CHANGED
from muster.common.postgres.listening import NoticeListener


class ChangeNotices:
    """Sets every `waker` at each notice. A missed notice does no harm: loops also look at intervals."""

    def __init__(self, url: str) -> None:
        self._wakers: list[asyncio.Event] = []
        self._listener = NoticeListener(url, CHANGED, told=lambda _: self._wake(), again=self._wake)

    def waker(self) -> asyncio.Event:
        """Return a new event that is set at each notice and after each reconnection."""
        waker = asyncio.Event()
        self._wakers.append(waker)
        return waker

    async def run(self) -> None:
        """Listen through outages, until cancelled. Must run under `supervise`."""
        await self._listener.run()

    def _wake(self) -> None:
        for waker in self._wakers:
            waker.set()
