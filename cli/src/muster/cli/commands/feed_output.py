"""A feed on stdout: lines for people, JSON or YAML for programs."""

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
    """Write the feed to its end, each event as `line` words it. Returns the event that was its end, if it had one."""
    gathered: list[object] = []
    end = None
    async with aclosing(feed) as sent:
        async for one in sent:
            if one.name == "end":
                end = one
            elif one.name == "reset":
                say("That position is not known (any more): everything follows from the beginning.")
            elif form == "json":
                gathered.append(positioned(one))
            else:
                _write(one, form, line)
    if form == "json":
        emit(gathered)
    return end


def positioned(one: "ServerSentEvent") -> dict[str, Any]:
    """What happened, with the position to resume after."""
    return {"position": one.id, **msgspec.json.decode(one.body, type=dict[str, Any])}


def _write(one: "ServerSentEvent", form: Form, line: Callable[["ServerSentEvent"], str | None]) -> None:
    if form == "name":
        sys.stdout.write(printable(one.id) + "\n")
    elif form == "table":
        if (words := line(one)) is not None:
            sys.stdout.write(words + "\n")
    else:
        if form == "yaml":
            sys.stdout.write("---\n")
        emit(positioned(one), form)
    sys.stdout.flush()
