"""Gives each request a W3C trace: the trace of the header `traceparent`, or a new trace.

The trace's id is in the response header `X-Trace-Id` and in all log lines of the request.
"""

import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muster.common.trace import continue_trace
from muster.management_api.http.middleware.asgi import begins

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class TraceId:
    """Middleware that continues the trace of the request's header `traceparent`, or begins a new trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request in its trace, and add the header `X-Trace-Id` to the response."""
        given = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
        trace_id = continue_trace(given.decode() if _TRACEPARENT.fullmatch(given) else None)

        async def named(message: Message) -> None:
            if begins(message):
                MutableHeaders(scope=message).append("X-Trace-Id", trace_id)
            await send(message)

        await self._app(scope, receive, named)
