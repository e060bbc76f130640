"""Feeds that are open now, and what all feeds share: where they begin, how they are written, when they end."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Annotated

from muster.common.faults import TooMany
from muster.management_api.access.routes.recheck import AccessRecheck
from muster.management_api.feeds.event_stream import KEEP_ALIVE, KEEP_ALIVE_S, EventStream, opening
from muster.management_api.http.parts import part

NOW = "now"
"""A position that means the present end: only later events follow."""


class FeedSlots:
    """Opens feeds. A feed ends with the service, or when its reader loses the permission.

    A user may have `most` open feeds, over all keys: an open feed holds subscriptions, and reads its streams again
    while it is idle.
    """

    def __init__(self, access: AccessRecheck, *, most: int) -> None:
        self.access, self._most = access, most
        self._closing = asyncio.Event()
        self._open = Counter[str]()

    def open(self, events: AsyncGenerator[bytes], user_id: str) -> EventStream:
        """Return a response with these events. Raises `TooMany` if the user has `most` feeds open."""
        if self._open[user_id] >= self._most:
            raise TooMany(f"a user may have {self._most} feeds open at once: close one, then open this one")
        return EventStream(events, until=self._closing, lost=self.access.lost, while_open=self._counted(user_id))

    @contextmanager
    def _counted(self, user_id: str) -> Generator[None]:
        self._open[user_id] += 1
        try:
            yield
        finally:
            self._open[user_id] -= 1
            if not self._open[user_id]:
                del self._open[user_id]

    def close(self) -> None:
        """End every open feed: clients resume at another replica."""
        self._closing.set()


OpenFeeds = Annotated[FeedSlots, part(FeedSlots)]


class FeedReading[E]:
    """Writes one feed: `line` encodes an event, `end` is sent after the last event."""

    def __init__(self, *, line: Callable[[E], bytes], end: Callable[[], bytes], reset: bool) -> None:
        self._line, self._end, self._reset = line, end, reset

    async def present(self, events: AsyncIterator[E], *, ended: bool = False) -> AsyncGenerator[bytes]:
        """Yield the events up to now; `ended`: the feed is complete, which the last event says."""
        yield opening(reset=self._reset)
        async for event in events:
            yield self._line(event)
        if ended:
            yield self._end()

    async def live(self, events: AsyncGenerator[E | None]) -> AsyncGenerator[bytes]:
        """Yield present and later events. At a None, which means that nothing happened, sometimes a keep-alive."""
        yield opening(reset=self._reset)
        now = asyncio.get_running_loop().time
        last_write = now()
        async with aclosing(events):
            async for event in events:
                if event is not None:
                    yield self._line(event)
                    last_write = now()
                elif now() - last_write >= KEEP_ALIVE_S:
                    yield KEEP_ALIVE
                    last_write = now()
        yield self._end()


async def resumed[P](
    given: str | None,
    *,
    parse: Callable[[str], P | None],
    known: Callable[[P], Awaitable[bool]],
    now: Callable[[], Awaitable[P]],
) -> tuple[P | None, bool]:
    """Return the cursor that the client sent (None: the beginning), and whether the cursor was unknown."""
    if given == NOW:
        return await now(), False
    place = parse(given) if given else None
    if place is not None and not await known(place):
        place = None
    return place, bool(given) and place is None
