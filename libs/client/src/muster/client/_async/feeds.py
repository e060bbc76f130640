"""Reads feeds of server-sent events, and reconnects when a connection is cut.

- A feed remembers the id of the last event that it yielded and sends that id as `Last-Event-ID` when it reconnects.
  The API continues after that event, so no event is lost and none is yielded twice.
- A feed whose connection is silent for `SILENCE_S` is reconnected, because the API writes at least every 15 s.
- A feed whose connections fail for a minute without a new event raises the last error (`feed_outage`).
"""

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing

from muster.client._async.connection import AsyncApiConnection
from muster.client.errors import ApiCallError, ApiStatusError, ApiTimeoutError, UnexpectedReplyError
from muster.client.feed_items import FeedItem, FeedKind
from muster.client.feed_outage import FeedOutage
from muster.client.http_messages import ERROR, Query
from muster.client.sse import EventParser, ServerSentEvent
from muster.client.time_limits import RECONNECT_S
from muster.common.contract import decode
from muster.common.contracts.problem import Problem
from muster.common.faults import InvalidMessage


async def read_feed[E](
    connection: AsyncApiConnection,
    path: str,
    kind: FeedKind[E],
    after: str | None = None,
    *,
    follow: bool = True,
    openings: bool = False,
    ends_at_s: float = math.inf,
) -> AsyncGenerator[FeedItem[E]]:
    """Yield the feed's items after the position `after`, each once and in order; reconnect if the connection is cut.

    Returns after the item `end` (which is yielded too) or, without `follow`, after the newest event. Raises an
    `ApiCallError` if the API refuses the request or stays unreachable for a minute, and `ApiTimeoutError` when the
    client's clock reaches `ends_at_s`.

    With `openings`, an item `open` is yielded for each new connection, before the connection's own items. A reader
    that starts at `NOW` can then read the current state after `open` and misses no change: each later change comes as
    an event.
    """
    options = connection.options
    outage = FeedOutage(options.monotonic, options.on_outage)
    while True:
        try:
            events = _connected(connection, path, after, [("follow", follow)], ends_at_s)
            async with aclosing(events):
                async for event in events:
                    if event.name == "problem":
                        raise _problem(connection.url, event.body)
                    # A server that fails after its first event repeats that event at each connection. Only an
                    # event with a new id shows that the feed makes progress.
                    outage.record_event(new=event.id not in ("", after))
                    after = None if event.name == "reset" else event.id or after
                    if event.name != "open" or openings:
                        yield FeedItem(event.name, after or "", event.body, kind)
                    if event.name == "end":
                        return
            if not follow:
                return
        except ApiCallError as error:
            if options.monotonic() >= ends_at_s:
                raise ApiTimeoutError(f"the feed {path} of {connection.url} did not end in time") from error
            outage.record_failure(error)
        await options.sleep(min(RECONNECT_S, max(0.0, ends_at_s - options.monotonic())))


def _problem(url: str, body: bytes) -> ApiCallError:
    """Return the error of a feed that the API ended early."""
    try:
        return ApiStatusError.of(decode(body, Problem).status, body)
    except InvalidMessage as error:
        return UnexpectedReplyError(f"{url} does not answer as a Muster API: {error}")


async def _connected(
    connection: AsyncApiConnection, path: str, after: str | None, query: Query, ends_at_s: float
) -> AsyncGenerator[ServerSentEvent]:
    """Connect once; yield `open` and then the events until the connection ends.

    Raises an `ApiCallError` if the connection is cut or the API refuses the request.
    """
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    stream = connection.stream("GET", path, query=query, headers=headers, ends_at_s=ends_at_s)
    async with stream as (reply, chunks):
        if reply.status >= ERROR:
            body = b"".join([chunk async for chunk in chunks])
            raise ApiStatusError.of(reply.status, body, retry_after_s=reply.retry_after_s)
        content_type = reply.headers.get("content-type", "")
        if not content_type.startswith("text/event-stream"):
            raise UnexpectedReplyError(
                f"{connection.url} does not answer as a Muster API: {path} sent {content_type or 'no content type'} "
                "instead of text/event-stream"
            )
        yield ServerSentEvent("open", "", b"")
        parser = EventParser()
        async for chunk in chunks:
            for event in parser.events(chunk):
                yield event
