"""`HEAD`: what `GET` would answer, without its body. Outermost, so that a `HEAD` is a `GET` to everybody else."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Heads:
    """Wraps the application."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """One request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return self._app(scope, receive, send)

        async def head(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                # A feed would write for ever: that nobody reads any more is told to it as a client's going away.
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        return self._app({**scope, "method": "GET"}, receive, head)
