"""LISTEN: each loop has an event that is set when a transaction changed something."""

import asyncio

import structlog

from muster.agent_manager.store.database import CHANGED
from muster.common.faults import Unavailable
from muster.common.postgres.connection import connect

log = structlog.get_logger()

RECONNECT_S = 0.5


class Notices:
    """Wakes whoever asked for a `waker`. Missed notices do no harm: the loops look again by themselves."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._wakers: list[asyncio.Event] = []

    def waker(self) -> asyncio.Event:
        """A new event, set at each notice and each reconnection."""
        waker = asyncio.Event()
        self._wakers.append(waker)
        return waker

    async def run(self) -> None:
        """Listen for ever, through outages."""
        while True:
            try:
                await self._listen()
            except Unavailable as error:
                log.warning("not listening", error=str(error))
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        connection = await connect(self._url)
        ended = asyncio.Event()

        def end(_: object) -> None:
            ended.set()

        connection.add_termination_listener(end)
        try:
            await connection.add_listener(CHANGED, self._wake)
            self._wake()
            await ended.wait()
        finally:
            connection.terminate()

    def _wake(self, *_: object) -> None:
        for waker in self._wakers:
            waker.set()
