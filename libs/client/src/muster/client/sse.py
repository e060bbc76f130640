"""Parses server-sent events."""

from collections.abc import Iterator
from typing import NamedTuple


class ServerSentEvent(NamedTuple):
    """One server-sent event: its type, its id (empty if the event has no id), and its data."""

    name: str
    id: str
    body: bytes


class EventParser:
    """Splits the chunks of a response into events. Only LF ends a line, because Muster's API writes no CR."""

    def __init__(self) -> None:
        self._rest = b""

    def events(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Yield each event that `chunk` completes. An incomplete event is kept until the next chunk."""
        *blocks, self._rest = (self._rest + chunk).split(b"\n\n")
        for block in blocks:
            if event := _event(block):
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
