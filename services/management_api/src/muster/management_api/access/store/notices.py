"""Whoever rests on what a caller may is woken when that changes, whichever replica changed it, or a hand."""

import asyncio
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager

from muster.common.postgres.listening import NoticeListener

CALLERS = "api_callers"
"""The database's triggers tell here, at each commit, of whom (a user's id) something that counts was changed."""


class PermissionNotices:
    """Wakes whoever asked. After an outage everybody is woken."""

    def __init__(self, url: str) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._listener = NoticeListener(url, CALLERS, told=self._told, again=self._tell_all)

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
        await self._listener.run()

    def _told(self, user_id: str) -> None:
        for noticed in self._waiting.get(user_id, ()):
            noticed.set()

    def _tell_all(self) -> None:
        for user_id in list(self._waiting):
            self._told(user_id)
