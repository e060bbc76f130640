"""Limits the bytes of request bodies, and the time in which a body must arrive."""

import asyncio

from fastapi.exceptions import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1 << 20
"""Most bytes of a request body. To decode and check such a body blocks the event loop for milliseconds.

The longest task needs less than half of these bytes. A message with the body's values always fits into one NATS message
(4 MiB): the body has at most `MOST_VALUES` values, and only numbers become longer, by less than 20 bytes each.
"""
BODY_DEADLINE_S = 30.0


class BodyLimit:
    """Middleware that refuses a body over `MAX_BODY_BYTES` (413), or a body that takes over `BODY_DEADLINE_S` (408).

    Raises `HTTPException` in the code that reads the body, and FastAPI answers with the refusal. uvicorn reads the rest
    of the body, so that the client can read the response. FastAPI's option `max_body_size` is not used, because it
    answers in plain text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, and raise `HTTPException` as soon as its body is too large or too slow."""
        # The body of a GET request has no limit, because no route reads it.
        if scope["type"] != "http" or scope["method"] == "GET":
            await self._app(scope, receive, send)
            return
        # uvicorn has checked that the header `Content-Length` is a number.
        declared = int(Headers(scope=scope).get("content-length", "0"))
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
                raise HTTPException(408, f"the request's body did not arrive within {BODY_DEADLINE_S:g} s") from None
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise _too_large()
            if not message.get("more_body", False):
                # The body is complete, so there is no deadline for the next ASGI message (`http.disconnect`).
                deadline = None
            return message

        await self._app(scope, bounded, send)


def _too_large() -> HTTPException:
    return HTTPException(413, f"the request's body must be at most {MAX_BODY_BYTES} bytes")
