"""Bounds bodies in bytes and in time."""

import asyncio

from fastapi.exceptions import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1 << 20
"""Decoding and checking this many bytes takes milliseconds of the event loop.

The longest task needs less than half. With `MOST_VALUES`, the resulting message always fits into one message of NATS (4
MiB): only numbers become longer, by less than 20 bytes each.
"""
BODY_DEADLINE_S = 30.0


class BodyLimit:
    """Refuses a body over `MAX_BODY_BYTES` (413), or one that takes longer than `BODY_DEADLINE_S` (408).

    Raises `HTTPException` where the body is read: FastAPI passes it on. uvicorn reads the rest of the body, so that the
    client can read the response. (FastAPI's `max_body_size` answers in plain text.)
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] == "GET":  # a request whose body no route reads
            await self._app(scope, receive, send)
            return
        declared = int(Headers(scope=scope).get("content-length", "0"))  # the server has checked that it is a number
        deadline: float | None = asyncio.get_running_loop().time() + BODY_DEADLINE_S
        received = 0

        async def bounded() -> Message:
            nonlocal received, deadline
            if declared > MAX_BODY_BYTES:
                raise _too_large()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not arrive within {BODY_DEADLINE_S:g} s") from None
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise _too_large()
            if not message.get("more_body", False):
                deadline = None  # the next message arrives when the client disconnects, however late that is
            return message

        await self._app(scope, bounded, send)


def _too_large() -> HTTPException:
    return HTTPException(413, f"the body must be at most {MAX_BODY_BYTES} bytes")
