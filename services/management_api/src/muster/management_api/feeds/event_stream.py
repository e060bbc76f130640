"""Writes responses of server-sent events.

A response ends when its events end, the client disconnects, the caller loses the permission, or the process stops.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractContextManager, aclosing
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import Header, Request, Response
from starlette.types import Receive, Scope, Send

from muster.common.contracts.problem import problem
from muster.common.faults import Fault, TimedOut, Unavailable
from muster.common.trace import traceparent

log = structlog.get_logger()

Lost = Callable[[Scope], Coroutine[Any, Any, Fault]]

EVENT_STREAM = "text/event-stream"
_EVENT = {"type": "object", "properties": {"data": {"type": "string", "contentMediaType": "application/json"}}}
EVENTS: dict[str, Any] = {"content": {EVENT_STREAM: {"schema": _EVENT | {"required": ["event", "data"]}}}}
"""Value of `responses=` for a route that streams events."""
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        pattern="^[!-~]*$",
        description="The `id` of the last event that the client received. The feed continues after this event.",
    ),
]
KEEP_ALIVE = b": still here\n\n"
KEEP_ALIVE_S = 10.0
"""Seconds between two keep-alive comments. Some proxies close connections that are silent for over 15 s."""
_OURS = 500
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
"""Line breaks are replaced by spaces. In JSON they occur only between tokens; in an event stream they end a field."""


class EventStream(Response):
    """An HTTP response of server-sent events.

    When a client disconnects, this response closes the generator of events, and so ends the generator's subscriptions.
    Starlette's own streaming response would leave the generator open.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        *,
        until: asyncio.Event,
        lost: Lost,
        while_open: AbstractContextManager[None],
    ) -> None:
        """Make a response of `events` that ends when `until` is set or `lost` returns.

        `until` is set when the process stops. `lost` returns the reason when the caller loses the permission. The
        context manager `while_open` is entered when the response starts and left when the response ends.
        """
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._until, self._lost, self._while_open = events, until, lost, while_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events to the client until the events end, or until the response must end for another reason.

        The other reasons are that the client disconnects, the caller loses the permission, or the process stops.
        """
        with self._while_open:
            await self._stream(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with asyncio.TaskGroup() as tasks:
            writing, lost = tasks.create_task(self._write(send)), tasks.create_task(self._lost(scope))
            ends = [writing, lost, tasks.create_task(_gone(receive)), tasks.create_task(_set(self._until))]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in ends:
                task.cancel()
        if writing.cancelled() and not lost.cancelled():
            await send({"type": "http.response.body", "body": stopped(lost.result()), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send) -> None:
        try:
            async with aclosing(self._events):
                async for chunk in self._events:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except Fault as fault:
            # The status 200 was already sent, so the error is sent as an event, which shows whether a retry may
            # succeed.
            if fault.status >= _OURS and not isinstance(fault, Unavailable | TimedOut):
                log.exception("feed raised an unexpected error")
            await send({"type": "http.response.body", "body": stopped(fault), "more_body": True})


def wanted_by(request: Request) -> bool:
    """Return whether the request's header `Accept` names the type of event streams."""
    return EVENT_STREAM in request.headers.get("accept", "")


def opening(*, reset: bool = False) -> bytes:
    """Return the first bytes of a feed.

    With `reset`, these bytes include the event `reset`. This event informs the client that its position is unknown, and
    that all events follow.
    """
    begun = b"retry: 1000\n: muster\n\n"
    return begun + b"event: reset\ndata: {}\n\n" if reset else begun


def written(name: str, body: bytes, position: str) -> bytes:
    """Return one server-sent event as bytes, with its name, its JSON body and its position in the feed."""
    return b"".join(
        (b"id: ", position.encode(), b"\nevent: ", name.encode(), b"\ndata: ", body.translate(_LINE_BREAKS), b"\n\n")
    )


def stopped(fault: Fault) -> bytes:
    """Return the event `problem`, which contains the reason why a feed stops before its end."""
    told = problem(fault, trace_id=traceparent().split("-")[1])
    return b"event: problem\ndata: " + msgspec.json.encode(told) + b"\n\n"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _set(event: asyncio.Event) -> None:
    await event.wait()
