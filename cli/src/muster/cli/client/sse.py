"""Server-sent events, read from a stream of bytes."""

from collections.abc import AsyncIterable, AsyncIterator

import msgspec

from muster.common.contract import decode
from muster.common.contracts.feed import FeedEvent


class ServerSentEvent(msgspec.Struct, frozen=True):
    """One event: `id` is the position to resume after, `name` is `task`, `log`, `guardian`, `reset` or `end`."""

    name: str
    id: str
    body: bytes

    @property
    def event(self) -> FeedEvent | None:
        """What happened; None for `reset` and `end`."""
        return decode(self.body, FeedEvent) if self.name in ("task", "log", "guardian") else None


async def sent_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[ServerSentEvent]:
    """The whole events in `chunks`; what is cut off at the end is not one. Lines end in LF, as Muster writes them."""
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
