"""Feeds that are open now, and what all have in common: where they begin, how they are written, when they end."""

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
"""In the place of a place: what is told from here on."""


class FeedSlots:
    """Opens them. One that is open ends when the service does, or when its reader may no longer have it.

    A user has at most `most` at once, with all of their keys together: an open feed has subscriptions, and reads its
    streams again while it is idle.
    """

    def __init__(self, access: AccessRecheck, *, most: int) -> None:
        self.access, self._most = access, most
        self._closing = asyncio.Event()
        self._open = Counter[str]()

    def open(self, events: AsyncGenerator[bytes], user_id: str) -> EventStream:
        """Answer with these events. Raises `TooMany` for one feed more than a user may have."""
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
        """End every open feed: its reader resumes elsewhere."""
        self._closing.set()


OpenFeeds = Annotated[FeedSlots, part(FeedSlots)]


class FeedReading[E]:
    """How one feed is written: `line` is an event as it is sent, `end` what is sent after the last one."""

    def __init__(self, *, line: Callable[[E], bytes], end: Callable[[], bytes], reset: bool) -> None:
        self._line, self._end, self._reset = line, end, reset

    async def present(self, events: AsyncIterator[E], *, ended: bool = False) -> AsyncGenerator[bytes]:
        """What there is; `ended`: nothing will follow, and that is said."""
        yield opening(reset=self._reset)
        async for event in events:
            yield self._line(event)
        if ended:
            yield self._end()

    async def live(self, events: AsyncGenerator[E | None]) -> AsyncGenerator[bytes]:
        """What there is and what comes. None says that nothing happened: now and then the reader is told so."""
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
    """The place that the reader brings back, None for the beginning; and whether what they brought was unknown."""
    if given == NOW:
        return await now(), False
    place = parse(given) if given else None
    if place is not None and not await known(place):
        place = None
    return place, bool(given) and place is None
