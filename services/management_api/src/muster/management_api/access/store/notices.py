"""Wakes open requests when permissions change: by a replica, or by an operator's SQL."""

import asyncio
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager

from muster.common.postgres.listening import NoticeListener

CALLERS = "api_callers"
"""The channel on which triggers of the database notify, at each commit, the id of a user whose permissions changed."""


class PermissionNotices:
    """Sets the events of a user's open requests. After an outage all events are set."""

    def __init__(self, url: str) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._listener = NoticeListener(url, CALLERS, told=self._told, again=self._tell_all)

    @contextmanager
    def of(self, user_id: str) -> Generator[asyncio.Event]:
        """Return an event that is set when something about a user or their keys changed, or may have.

        Clear the event *before* reading what it announces: then no change is missed.
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
        """Listen through outages, until cancelled. Must run under `supervise`."""
        await self._listener.run()

    def _told(self, user_id: str) -> None:
        for noticed in self._waiting.get(user_id, ()):
            noticed.set()

    def _tell_all(self) -> None:
        for user_id in list(self._waiting):
            self._told(user_id)
