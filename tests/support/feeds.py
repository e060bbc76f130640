"""Reads the bytes of a feed of server-sent events, for tests that cut connections themselves."""

from collections.abc import AsyncIterable, AsyncIterator

from muster.client.feed_items import TASK_FEED, FeedItem
from muster.client.sse import EventParser, ServerSentEvent
from muster.common.contracts.feed import FeedEvent


async def sent_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[ServerSentEvent]:
    """Yield each complete event in the chunks of one connection."""
    parser = EventParser()
    async for chunk in chunks:
        for event in parser.events(chunk):
            yield event


async def task_items(chunks: AsyncIterable[bytes]) -> AsyncIterator[FeedItem[FeedEvent]]:
    """Yield the items of a task's feed, as the client does."""
    async for event in sent_events(chunks):
        yield FeedItem(event.name, event.id, event.body, TASK_FEED)
