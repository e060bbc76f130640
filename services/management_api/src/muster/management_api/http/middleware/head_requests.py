"""Answers `HEAD` requests like `GET` requests, without the body.

This middleware is the outermost one, so that all other middleware gets a `GET`.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """Middleware that answers `HEAD` requests on every path that has a `GET` route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Pass a `HEAD` on as a `GET`, and send only the head of the response."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                # This empty body ends the response. Otherwise a HEAD request for a feed would never end.
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app({**scope, "method": "GET"}, receive, head)
