"""Opens feeds, which are responses of server-sent events. All feeds share the rules for their start, format and end."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Annotated

from muster.common.faults import TooMany
from muster.management_api.access.routes.access_recheck import AccessRecheck
from muster.management_api.feeds.event_stream import KEEP_ALIVE, KEEP_ALIVE_S, EventStream, opening
from muster.management_api.http.application_parts import part

NOW = "now"
"""The position for the present end of a feed. Only later events follow."""


class FeedSlots:
    """Opens feeds of server-sent events, and ends them when the process stops or the caller loses the permission.

    A user may have at most `most` open feeds, counted over all keys of the user. The limit is needed because an open
    feed has NATS subscriptions, and reads its streams again even while there are no events.
    """

    def __init__(self, access: AccessRecheck, *, most: int) -> None:
        self.access, self._most = access, most
        self._closing = asyncio.Event()
        self._open = Counter[str]()

    def open(self, events: AsyncGenerator[bytes], user_id: str) -> EventStream:
        """Return a response that streams these events. Raises `TooMany` if the user has too many open feeds."""
        if self._open[user_id] >= self._most:
            raise TooMany(f"the user already has {self._most} open feeds; close a feed, then open this one")
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
        """End all open feeds, because this process stops. The clients resume their feeds at another replica."""
        self._closing.set()


OpenFeeds = Annotated[FeedSlots, part(FeedSlots)]


class FeedReading[E]:
    """Encodes the events of one feed as bytes. `line` encodes an event, and `end` returns the feed's last event."""

    def __init__(self, *, line: Callable[[E], bytes], end: Callable[[], bytes], reset: bool) -> None:
        self._line, self._end, self._reset = line, end, reset

    async def present(self, events: AsyncIterator[E], *, ended: bool = False) -> AsyncGenerator[bytes]:
        """Yield the bytes of all events up to now. With `ended` the feed is complete, and the event `end` follows."""
        yield opening(reset=self._reset)
        async for event in events:
            yield self._line(event)
        if ended:
            yield self._end()

    async def live(self, events: AsyncGenerator[E | None]) -> AsyncGenerator[bytes]:
        """Yield the bytes of present and later events, and then of the event `end`.

        A None in `events` means that there is no new event. Then a keep-alive comment is yielded if `KEEP_ALIVE_S`
        seconds have passed since the last bytes.
        """
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
    """Return the cursor at which a feed continues, and whether the client's cursor was unknown.

    The cursor is None if the feed starts at its beginning.
    """
    if given == NOW:
        return await now(), False
    place = parse(given) if given else None
    if place is not None and not await known(place):
        place = None
    return place, bool(given) and place is None
