"""Headers of every answer: what a browser may do with it, and what the caller has left of its rate limit."""

from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muster.management_api.adapters.rate_limits import Usage
from muster.management_api.routes.middleware.asgi import begins, with_headers

_POLICY = b"default-src 'none'; frame-ancestors 'none'"
_DOCS_POLICY = (
    b"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI is started by a script inside the page; nothing of a request is ever in that page."""
_DOCS_FILES = "/static-offline-docs/"
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class ResponseHeaders:
    """Adds security headers, `Cache-Control: no-store` unless the route says otherwise, and `RateLimit-*`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def completed(message: Message) -> None:
            if begins(message):
                message = with_headers(message, _added(scope, message))
            await send(message)

        await self._app(scope, receive, completed)


def _added(scope: Scope, message: Message) -> Iterator[tuple[bytes, bytes]]:
    yield from _ALWAYS
    yield b"content-security-policy", _DOCS_POLICY if scope["path"] == "/docs" else _POLICY
    if not any(name.lower() == b"cache-control" for name, _ in message.get("headers", ())):
        yield b"cache-control", b"max-age=3600" if scope["path"].startswith(_DOCS_FILES) else b"no-store"
    usage: Usage | None = scope["state"].get("usage")
    if usage is not None:
        yield b"ratelimit-policy", b"%d;w=%d" % (usage.limit, usage.window_s)
        yield b"ratelimit-limit", b"%d" % usage.limit
        yield b"ratelimit-remaining", b"%d" % usage.remaining
        yield b"ratelimit-reset", b"%d" % usage.reset_s
