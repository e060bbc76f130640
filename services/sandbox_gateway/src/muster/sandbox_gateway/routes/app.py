"""The ASGI application: finds the door, and says no in one way."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from muster.common.faults import Fault, NotFound
from muster.common.trace import continue_trace
from muster.sandbox_gateway.domain.allowance import PENALTY_S, OverAllowance
from muster.sandbox_gateway.routes.completions import Completions
from muster.sandbox_gateway.routes.doors import Doors
from muster.sandbox_gateway.routes.wire import (
    Disconnected,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    answer,
    refusal,
)

log = structlog.get_logger()


class MethodNotAllowed(Fault):
    """There is such a door, but it opens another way."""

    status, code = 405, "method_not_allowed"


class GatewayApp:
    """All doors, and `/health` and `/ready`."""

    def __init__(
        self,
        doors: Doors,
        completions: Completions,
        *,
        ready: Callable[[], bool],
        nearly_full: Callable[[], Sequence[str]],
    ) -> None:
        self._completions, self._ready, self._nearly_full = completions, ready, nearly_full
        self._of_sandbox = {
            "events": ("POST", doors.events),
            "finished": ("POST", doors.finished),
            "beat": ("POST", doors.beat),
            "inbox": ("GET", doors.inbox),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        trace_id = continue_trace(request.header(b"traceparent") or None)
        try:
            response = await self._routed(request)
        except Disconnected:
            return
        except Exception as error:
            fault = Fault.of(error)
            if not isinstance(error, Fault):
                log.exception("request failed", path=request.path, trace_id=trace_id)
            if isinstance(fault, OverAllowance):
                await asyncio.sleep(PENALTY_S)
            response = refusal(fault, trace_id)
        finally:
            request.end()
        await response.send(send)

    async def _routed(self, request: Request) -> Response:
        match request.path.split("/"):
            case ["", "v1", "sandboxes", sandbox_id, door] if door in self._of_sandbox:
                method, open_door = self._of_sandbox[door]
                return await open_door(_by(method, request), sandbox_id)
            case ["", "v1", "chat", "completions"]:
                return await self._completions.complete(_by("POST", request))
            case ["", "health"]:
                return answer({"status": "alive", "nearly_full": self._nearly_full()})
            case ["", "ready"]:
                ready = self._ready()
                return answer({"status": "ready" if ready else "starting"}, 200 if ready else 503)
            case _:
                raise NotFound("there is no such door")


def _by(method: str, request: Request) -> Request:
    if request.method != method:
        raise MethodNotAllowed(f"this door opens by {method}")
    return request
