"""Errors that no route expects: logged with their trace, answered with 500 and without their text."""

import structlog
from fastapi.requests import HTTPConnection
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muster.management_api.access.routes.admission import Admission
from muster.management_api.http.middleware.asgi import begins
from muster.management_api.http.parts import part_of
from muster.management_api.http.problems import refusal

log = structlog.get_logger()


class UnexpectedErrors:
    """Answers errors that the handlers of `problems` do not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = begun or begins(message) or message["type"] == "websocket.accept"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if isinstance(error, ClientDisconnect) or (isinstance(error, OSError) and begun):
                return  # the client went away
            connection = HTTPConnection(scope)
            log.exception("route raised a bug", path=part_of(connection, Admission).concealed(connection))
            if begun or scope["type"] != "http":
                raise
            await refusal(error)(scope, receive, send)
