"""Parses server-sent events from a stream of bytes."""

from collections.abc import AsyncIterable, AsyncIterator

import msgspec

from muster.common.contract import decode
from muster.common.contracts.feed import FeedEvent


class ServerSentEvent(msgspec.Struct, frozen=True):
    """One server-sent event. `name` is its type, `id` the feed position to resume after, `body` its JSON data.

    The names in a task's feed are `task`, `log`, `guardian`, `reset` (the feed starts from the beginning), `problem`
    (the API's error) and `end`. `ApiConnection.feed` adds `open`.
    """

    name: str
    id: str
    body: bytes

    @property
    def event(self) -> FeedEvent | None:
        """The decoded feed event; None if this is no event of a task, for instance `reset` or `end`."""
        return decode(self.body, FeedEvent) if self.name in ("task", "log", "guardian") else None


async def sent_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[ServerSentEvent]:
    """Yield each complete event in `chunks`; drop an incomplete one at the end.

    Only LF ends a line, because Muster's API writes no CR.
    """
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        *blocks, rest = buffer.split(b"\n\n")
        buffer = bytearray(rest)
        for block in blocks:
            if event := _event(bytes(block)):
                yield event


def _event(block: bytes) -> ServerSentEvent | None:
    fields: dict[bytes, bytes] = {}
    for line in block.split(b"\n"):
        name, found, value = line.partition(b":")
        if found and name:
            fields[name] = value.removeprefix(b" ")
    if b"data" not in fields:
        return None
    return ServerSentEvent(
        name=fields.get(b"event", b"message").decode(), id=fields.get(b"id", b"").decode(), body=fields[b"data"]
    )
