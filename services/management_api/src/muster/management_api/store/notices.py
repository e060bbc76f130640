"""LISTEN: whoever rests on what a caller may is woken when that changes, whichever replica changed it, or a hand."""

import asyncio
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import structlog

from muster.common.faults import Unavailable
from muster.common.postgres.connection import connect, typed

log = structlog.get_logger()

CALLERS = "api_callers"
"""The database's triggers tell here, at each commit, of whom (a user's id) something that counts was changed."""
RECONNECT_S = 0.5
PROBE_S = 10.0
"""How long a connection that is cut without a word may go on being believed."""


class Notices:
    """Wakes whoever asked. After an outage everybody is woken: what was told meanwhile is not told again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def of(self, user_id: str) -> Generator[asyncio.Event]:
        """An event that is set when something about a user or his keys changed, or may have.

        Clear it *before* reading what it announces: then nothing can be missed.
        """
        noticed = asyncio.Event()
        self._waiting[user_id].add(noticed)
        try:
            yield noticed
        finally:
            self._waiting[user_id].discard(noticed)
            if not self._waiting[user_id]:
                del self._waiting[user_id]

    async def run(self) -> None:
        """Listen for ever, through outages. To be supervised."""
        while True:
            try:
                await self._listen()
            except Unavailable as error:
                log.warning("not listening", error=str(error))
            await asyncio.sleep(RECONNECT_S)  # nothing announces that a database is back

    async def _listen(self) -> None:
        connection = await connect(self._url)
        lost = asyncio.Event()

        def lose(_: object) -> None:
            lost.set()

        connection.add_termination_listener(lose)
        try:
            with typed():
                await connection.add_listener(CALLERS, self._told)
                for noticed in [one for waiting in self._waiting.values() for one in waiting]:
                    noticed.set()
                while not lost.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PROBE_S):
                            await lost.wait()
                    if not lost.is_set():
                        await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    def _told(self, *told: Any) -> None:  # noqa: ANN401 - asyncpg's connection, pid, channel, payload
        for noticed in self._waiting.get(told[-1], ()):
            noticed.set()
