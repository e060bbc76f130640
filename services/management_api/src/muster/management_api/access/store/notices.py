"""Wakes open requests when the permissions of their callers change.

PostgreSQL notifies every replica of a change, also if an operator has made the change with SQL.
"""

import asyncio
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager

from muster.common.postgres.listening import NoticeListener

CALLERS = "api_callers"
"""PostgreSQL channel on which triggers publish, at each commit, the id of a user whose permissions have changed."""


class PermissionNotices:
    """Sets the events of a user's open requests when the user's permissions change.

    After an outage of the database the events of all users are set, because notices may have been lost.
    """

    def __init__(self, url: str) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._listener = NoticeListener(url, CALLERS, told=self._told, again=self._tell_all)

    @contextmanager
    def of(self, user_id: str) -> Generator[asyncio.Event]:
        """Return an event that is set when a user or a key of the user changes, or may have changed.

        The caller clears the event *before* it reads the user and the key. Then no change is missed.
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
        """Receive the notices of PostgreSQL, also after outages, until cancelled. `supervise` must run this loop."""
        await self._listener.run()

    def _told(self, user_id: str) -> None:
        for noticed in self._waiting.get(user_id, ()):
            noticed.set()

    def _tell_all(self) -> None:
        for user_id in list(self._waiting):
            self._told(user_id)
