"""Writes a feed to stdout in each output format."""

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from muster.cli.console.output import Form, emit, say
from muster.common.terminal import printable

if TYPE_CHECKING:
    from muster.cli.client.sse import ServerSentEvent


async def write_feed(
    feed: "AsyncGenerator[ServerSentEvent]", form: Form, line: "Callable[[ServerSentEvent], str | None]"
) -> "ServerSentEvent | None":
    """Write all events of a feed; return its `end` event, or None if the feed stopped without one.

    `line` formats an event for `-o table` and returns None for an event that is not shown. `-o json` prints all events
    as one list when the feed has ended; the other formats print each event at once.
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


def with_position(event: "ServerSentEvent") -> dict[str, Any]:
    """Return the event's JSON body with the field `position`, the feed position to resume after."""
    return {"position": event.id, **msgspec.json.decode(event.body, type=dict[str, Any])}


def _write(event: "ServerSentEvent", form: Form, line: Callable[["ServerSentEvent"], str | None]) -> None:
    if form == "name":
        sys.stdout.write(printable(event.id) + "\n")
    elif form == "table":
        if (text := line(event)) is not None:
            sys.stdout.write(text + "\n")
    else:
        if form == "yaml":
            sys.stdout.write("---\n")
        emit(with_position(event), form)
    sys.stdout.flush()
