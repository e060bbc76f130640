"""Adds headers to every response: security rules for browsers, and the use of the caller's rate limit."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muster.management_api.http.middleware.asgi import begins
from muster.management_api.http.rate_limits import Usage

_POLICY = "default-src 'none'; frame-ancestors 'none'"
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Inline scripts are allowed, because one starts Swagger UI. The page contains no text from requests."""
_DOCS_FILES = "/static-offline-docs/"
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class ResponseHeaders:
    """Middleware that adds security headers, a default `Cache-Control`, and `RateLimit-*` headers for known callers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, and add headers to its response."""

        async def completed(message: Message) -> None:
            if begins(message):
                _complete(MutableHeaders(scope=message), scope)
            await send(message)

        await self._app(scope, receive, completed)


def _complete(headers: MutableHeaders, scope: Scope) -> None:
    added = _ALWAYS | {"Content-Security-Policy": _DOCS_POLICY if scope["path"] == "/docs" else _POLICY}
    usage: Usage | None = scope["state"].get("usage")
    if usage is not None:
        added |= {
            "RateLimit-Policy": f"{usage.limit};w={usage.window_s}",
            "RateLimit-Limit": str(usage.limit),
            "RateLimit-Remaining": str(usage.remaining),
            "RateLimit-Reset": str(usage.reset_s),
        }
    for name, value in added.items():
        headers.append(name, value)
    headers.setdefault("Cache-Control", "max-age=3600" if scope["path"].startswith(_DOCS_FILES) else "no-store")
