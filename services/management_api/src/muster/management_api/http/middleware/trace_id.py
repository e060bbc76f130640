"""`X-Trace-Id`: each request has a W3C trace, the caller's or a new one; log lines carry its id."""

import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muster.common.trace import continue_trace
from muster.management_api.http.middleware.asgi import begins

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class TraceId:
    """Continues the trace of the header `traceparent`, or begins one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        given = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
        trace_id = continue_trace(given.decode() if _TRACEPARENT.fullmatch(given) else None)

        async def named(message: Message) -> None:
            if begins(message):
                MutableHeaders(scope=message).append("X-Trace-Id", trace_id)
            await send(message)

        await self._app(scope, receive, named)
