"""The event socket, on which the SDK hears of changes of state. It speaks Socket.IO.

Without it the SDK still works: it asks for the state once a second.
"""

import asyncio
import secrets
from typing import Any

import socketio  # pyright: ignore[reportMissingTypeStubs]
from daytona_api_client import SandboxState
from pydantic_core import from_json
from socketio.exceptions import ConnectionRefusedError as Unauthorized  # pyright: ignore[reportMissingTypeStubs]
from starlette.types import ASGIApp

from muster.daytona_double.requests import DoubleState
from muster.daytona_double.sandbox_record import DoubleSandbox


class StateEvents:
    """Tells connected clients of new sandboxes and of changes of state."""

    def __init__(self, state: DoubleState) -> None:
        self._state = state
        self._server: Any = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
        self._server.on("connect", self._connect)
        self._unsent: asyncio.Queue[tuple[str, object]] = asyncio.Queue()
        state.sandboxes.observer = self.tell
        state.forever(self._send_all())

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return an application that serves the event socket, and everything else by `app`."""
        return socketio.ASGIApp(self._server, app, socketio_path="/api/socket.io")

    def tell(self, record: DoubleSandbox, before: SandboxState | None) -> None:
        """Send the change of a sandbox's state to all clients. `before` is the state before, or None if it is new."""
        sandbox = from_json(record.as_sandbox(self._state.sandboxes.toolbox_url).to_json())
        if before is None:
            self._unsent.put_nowait(("sandbox.created", sandbox))
        else:
            change = {"sandbox": sandbox, "oldState": before.value, "newState": record.state.value}
            self._unsent.put_nowait(("sandbox.state.updated", change))

    async def _send_all(self) -> None:
        """Send the events in their order."""
        while True:
            await self._server.emit(*await self._unsent.get())

    async def _connect(self, sid: str, environ: dict[str, Any], auth: dict[str, str] | None = None) -> None:
        del sid, environ
        token = (auth or {}).get("token", "")
        if not secrets.compare_digest(token.encode(), self._state.api_key.encode()):
            raise Unauthorized("unauthorized")
