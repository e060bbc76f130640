"""The ASGI application for sandboxes: calls the endpoint that a path names, and answers each fault as a problem."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from muster.common.faults import Fault, MethodNotAllowed, NotFound
from muster.common.trace import continue_trace
from muster.sandbox_gateway.http.allowance import PENALTY_S, OverAllowance
from muster.sandbox_gateway.http.request import WorkerRequest, answer, refusal

log = structlog.get_logger()


Endpoint = Callable[[WorkerRequest], Awaitable[Response]]
SandboxEndpoint = Callable[[WorkerRequest, str], Awaitable[Response]]


class GatewayApp:
    """Serves `/v1/sandboxes/{id}/<name>` (`of_sandbox`: name → method, endpoint), the model, `/health` and `/ready`."""

    def __init__(
        self,
        of_sandbox: Mapping[str, tuple[str, SandboxEndpoint]],
        complete: Endpoint,
        *,
        ready: Callable[[], bool],
        nearly_full: Callable[[], Sequence[str]],
    ) -> None:
        self._of_sandbox, self._complete = of_sandbox, complete
        self._ready, self._nearly_full = ready, nearly_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        request = WorkerRequest(scope, receive)
        trace_id = continue_trace(request.headers.get("traceparent"))
        try:
            response = await self._routed(request)
        except ClientDisconnect:
            return
        except Exception as error:
            fault = Fault.of(error)
            if not isinstance(error, Fault):
                log.exception("request failed", path=scope["path"], trace_id=trace_id)
            if isinstance(fault, OverAllowance):
                await asyncio.sleep(PENALTY_S)
            response = refusal(fault, trace_id)
        finally:
            request.end()
        await response(scope, receive, send)

    async def _routed(self, request: WorkerRequest) -> Response:
        match request.scope["path"].split("/"):
            case ["", "v1", "sandboxes", sandbox_id, name] if name in self._of_sandbox:
                method, endpoint = self._of_sandbox[name]
                return await endpoint(_by(method, request), sandbox_id)
            case ["", "v1", "chat", "completions"]:
                return await self._complete(_by("POST", request))
            case ["", "health"]:
                return answer({"status": "alive", "nearly_full": self._nearly_full()})
            case ["", "ready"]:
                ready = self._ready()
                return answer({"status": "ready" if ready else "starting"}, 200 if ready else 503)
            case _:
                raise NotFound("there is no such endpoint")


def _by(method: str, request: WorkerRequest) -> WorkerRequest:
    if request.method != method:
        raise MethodNotAllowed(f"this endpoint takes {method}")
    return request
