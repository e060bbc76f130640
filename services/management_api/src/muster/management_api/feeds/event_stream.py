"""Server-sent events, and a response that ends when the client, the source or the service ends."""

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
"""`responses=` of a route that streams."""
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        pattern="^[!-~]*$",
        description="The `id` of the last event that was received; the feed goes on after it.",
    ),
]
KEEP_ALIVE = b": still here\n\n"
KEEP_ALIVE_S = 10.0
"""Seconds. Proxies cut connections that are silent for longer than some 15 s."""
_OURS = 500
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
"""In JSON these characters stand only between tokens; in an event stream they would end the field."""


class EventStream(Response):
    """A response of events.

    Starlette's own would leave the generator open, with its subscriptions, when a client is cut off.
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
        """`until`: the service ends; `lost`: returns why the client is disconnected; `while_open` is held."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._until, self._lost, self._while_open = events, until, lost, while_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream the events."""
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
        except (
            Fault
        ) as fault:  # the status is already sent, so the client is told in the stream, and learns whether to come back
            if fault.status >= _OURS and not isinstance(fault, Unavailable | TimedOut):
                log.exception("feed raised a bug")
            await send({"type": "http.response.body", "body": stopped(fault), "more_body": True})


def wanted_by(request: Request) -> bool:
    """Return whether the client accepts event streams by name."""
    return EVENT_STREAM in request.headers.get("accept", "")


def opening(*, reset: bool = False) -> bytes:
    """Return the beginning of a feed; `reset`: the position was unknown and everything follows."""
    begun = b"retry: 1000\n: muster\n\n"
    return begun + b"event: reset\ndata: {}\n\n" if reset else begun


def written(name: str, body: bytes, position: str) -> bytes:
    """Return one event as bytes."""
    return b"".join(
        (b"id: ", position.encode(), b"\nevent: ", name.encode(), b"\ndata: ", body.translate(_LINE_BREAKS), b"\n\n")
    )


def stopped(fault: Fault) -> bytes:
    """Return the event that says why a feed stops before its end."""
    told = problem(fault, trace_id=traceparent().split("-")[1])
    return b"event: problem\ndata: " + msgspec.json.encode(told) + b"\n\n"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _set(event: asyncio.Event) -> None:
    await event.wait()
