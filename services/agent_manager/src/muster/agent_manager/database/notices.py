"""Wakes loops by PostgreSQL's LISTEN and NOTIFY when a transaction of any replica has changed rows."""

import asyncio

from muster.agent_manager.database.engine import CHANGED
from muster.common.postgres.listening import NoticeListener


class ChangeNotices:
    """Sets every `waker` event when a notice arrives. A lost notice does no harm: loops also run at intervals."""

    def __init__(self, url: str) -> None:
        self._wakers: list[asyncio.Event] = []
        self._listener = NoticeListener(url, CHANGED, told=lambda _: self._wake(), again=self._wake)

    def waker(self) -> asyncio.Event:
        """Return a new event that is set when a notice arrives and after each reconnection to the database."""
        waker = asyncio.Event()
        self._wakers.append(waker)
        return waker

    async def run(self) -> None:
        """Listen for notices until cancelled; reconnect after outages. Must run under `supervise`."""
        await self._listener.run()

    def _wake(self) -> None:
        for waker in self._wakers:
            waker.set()
