"""Writes the events of a feed to stdout in the format of `-o`."""

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from muster.cli.console.output import OutputFormat, emit, say
from muster.common.terminal import printable

if TYPE_CHECKING:
    from muster.client import FeedItem


async def write_feed[E](
    feed: "AsyncGenerator[FeedItem[E]]", form: OutputFormat, line: "Callable[[FeedItem[E]], str | None]"
) -> "FeedItem[E] | None":
    """Write all events of a feed; return its `end` event, or None if the feed stopped without an `end` event.

    `line` formats an event for `-o table` and returns None for an event that is not shown. `-o json` prints all events
    as one list when the feed has ended; the other formats print each event when it arrives.
    """
    collected: list[object] = []
    end = None
    async with aclosing(feed) as events:
        async for event in events:
            if event.name == "end":
                end = event
            elif event.name == "reset":
                say("The given position is not known any more. All events follow from the beginning.")
            elif form == "json":
                collected.append(with_position(event))
            else:
                _write(event, form, line)
    if form == "json":
        emit(collected)
    return end


def with_position(event: "FeedItem[Any]") -> dict[str, Any]:
    """Return the event's JSON body with one more field: `position`, the event's position in the feed."""
    return {"position": event.position, **msgspec.json.decode(event.body, type=dict[str, Any])}


def _write[E](event: "FeedItem[E]", form: OutputFormat, line: Callable[["FeedItem[E]"], str | None]) -> None:
    if form == "name":
        sys.stdout.write(printable(event.position) + "\n")
    elif form == "table":
        if (text := line(event)) is not None:
            sys.stdout.write(text + "\n")
    else:
        if form == "yaml":
            sys.stdout.write("---\n")
        emit(with_position(event), form)
    sys.stdout.flush()
