"""Receives PostgreSQL notices (LISTEN) of one channel, also after outages and silently cut connections."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from muster.common.faults import Unavailable
from muster.common.postgres.connection import connect, typed

log = structlog.get_logger()

RECONNECT_S = 0.5
PROBE_S = 10.0
"""Seconds between probes, which detect a connection that was cut without notice."""


class NoticeListener:
    """Calls `told` with the payload of each notice, and calls `again` whenever notices may have been missed.

    PostgreSQL does not repeat notices that it sent while no connection listened.
    """

    def __init__(self, url: str, channel: str, *, told: Callable[[str], None], again: Callable[[], None]) -> None:
        self._url, self._channel = url, channel
        self._told, self._again = told, again

    async def run(self) -> None:
        """Receive notices until cancelled. Must run under `supervise`."""
        while True:
            try:
                await self._listen()
            except Unavailable as error:
                log.warning("database notices cannot be received", channel=self._channel, error=str(error))
            # PostgreSQL does not announce that it is reachable again, so retry after a pause.
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        connection = await connect(self._url)
        lost = asyncio.Event()

        def lose(_: object) -> None:
            lost.set()

        connection.add_termination_listener(lose)
        try:
            with typed():
                await connection.add_listener(self._channel, self._hear)
                self._again()
                while not lost.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PROBE_S):
                            await lost.wait()
                    if not lost.is_set():
                        await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    def _hear(self, *told: Any) -> None:  # noqa: ANN401 - asyncpg's connection, pid, channel, payload
        self._told(told[-1])
