"""The application: Daytona's control plane below `/api`, the toolbox below `/toolbox`, and the double's own routes."""

from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muster.daytona_double import control_routes
from muster.daytona_double.admission import API_PREFIX, TOOLBOX_PREFIX, abort, admit, below
from muster.daytona_double.control_plane import sandbox_routes, settings_routes, snapshot_routes
from muster.daytona_double.refusals import Refusal, answer_refusal
from muster.daytona_double.requests import DoubleState
from muster.daytona_double.state_events import StateEvents
from muster.daytona_double.toolbox import file_routes, log_routes, process_routes, transfer_routes

CONTROL_PLANE = (snapshot_routes, sandbox_routes, settings_routes)
ERRORS = 400
"""The first status that says that a request was not done."""
TOOLBOX = (process_routes, transfer_routes, file_routes)


def application(state: DoubleState) -> ASGIApp:
    """Return the ASGI application of a double."""
    app = FastAPI(openapi_url=None)
    app.state.double = state
    app.add_exception_handler(Refusal, answer_refusal)
    for module in CONTROL_PLANE:
        app.include_router(module.router, prefix=API_PREFIX, dependencies=[Depends(admit)])
    for module in TOOLBOX:
        app.include_router(module.router, prefix=TOOLBOX_PREFIX, dependencies=[Depends(admit)])
    app.include_router(log_routes.router, prefix=TOOLBOX_PREFIX)
    if state.settings.control:
        app.include_router(control_routes.router)
    served = LostAnswers(app, state)
    return StateEvents(state).around(served) if state.settings.events else served


class LostAnswers:
    """Closes the connection in place of an answer, if the fault `drop` or `lost-create` strikes."""

    def __init__(self, app: ASGIApp, state: DoubleState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; this is the ASGI application."""
        lost = False

        async def answer(message: Message) -> None:
            nonlocal lost
            if message["type"] == "http.response.start" and message["status"] < ERRORS and self._strikes(scope):
                lost = True
                await abort(HTTPConnection(scope))
            if not lost:
                await send(message)

        await self._app(scope, receive, answer)

    def _strikes(self, scope: Scope) -> bool:
        route, faults = f"{scope['method']} {below(scope['path'])}", self._state.faults
        return (route == "POST /sandbox" and faults.take("lost-create", route=route) is not None) or (
            faults.take("drop", route=route) is not None
        )
