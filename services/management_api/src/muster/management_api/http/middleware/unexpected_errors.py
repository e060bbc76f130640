"""Logs unexpected errors of routes with their tracebacks. The client gets the status 500 without the error's text."""

import structlog
from fastapi.requests import HTTPConnection
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muster.management_api.access.routes.admission import Admission
from muster.management_api.http.application_parts import part_of
from muster.management_api.http.middleware.asgi import begins
from muster.management_api.http.problems import refusal

log = structlog.get_logger()


class UnexpectedErrors:
    """Middleware that answers the errors for which the application has no error handler."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Log an unexpected error, and answer 500 if the response has not begun."""
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = begun or begins(message) or message["type"] == "websocket.accept"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if isinstance(error, ClientDisconnect) or (isinstance(error, OSError) and begun):
                return  # The client has disconnected, so no response is sent.
            connection = HTTPConnection(scope)
            log.exception("route raised an unexpected error", path=part_of(connection, Admission).concealed(connection))
            if begun or scope["type"] != "http":
                raise
            await refusal(error)(scope, receive, send)
