"""The ASGI application for workers: calls the endpoint for a request's path, and answers a fault with problem+json."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from muster.common.faults import Fault, MethodNotAllowed, NotFound
from muster.common.trace import continue_trace
from muster.sandbox_gateway.http.request import WorkerRequest, answer, refusal
from muster.sandbox_gateway.http.request_allowance import PENALTY_S, OverAllowance

log = structlog.get_logger()


Endpoint = Callable[[WorkerRequest], Awaitable[Response]]
SandboxEndpoint = Callable[[WorkerRequest, str], Awaitable[Response]]
UploadEndpoint = Callable[[WorkerRequest, str, str], Awaitable[Response]]


class GatewayApp:
    """Serves `/v1/sandboxes/{id}/<name>`, `/v1/chat/completions`, `/health` and `/ready`.

    `sandbox_endpoints` maps each `<name>` to its HTTP method and endpoint. `complete` is the endpoint of model calls.
    `webhooks` has the endpoints below `/v1/sandboxes/{id}/openhands/`, whose paths may end with a conversation's id.
    `upload` is the endpoint of `/v1/sandboxes/{id}/payloads/{sha256}`.
    """

    def __init__(
        self,
        sandbox_endpoints: Mapping[str, tuple[str, SandboxEndpoint]],
        complete: Endpoint,
        *,
        webhooks: Mapping[str, SandboxEndpoint],
        upload: UploadEndpoint,
        ready: Callable[[], bool],
        health: Callable[[], Awaitable[Mapping[str, object]]],
    ) -> None:
        self._sandbox_endpoints, self._complete = sandbox_endpoints, complete
        self._webhooks, self._upload = webhooks, upload
        self._ready, self._health = ready, health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request that the ASGI server has received."""
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
                log.exception("request of a worker raised an unexpected error", path=scope["path"], trace_id=trace_id)
            if isinstance(fault, OverAllowance):
                # The 429 response is delayed, so that a worker cannot repeat refused requests quickly.
                await asyncio.sleep(PENALTY_S)
            response = refusal(fault, trace_id)
        finally:
            request.end()
        await response(scope, receive, send)

    async def _routed(self, request: WorkerRequest) -> Response:
        match request.scope["path"].split("/"):
            case ["", "v1", "sandboxes", sandbox_id, name] if name in self._sandbox_endpoints:
                method, endpoint = self._sandbox_endpoints[name]
                return await endpoint(_with_method(method, request), sandbox_id)
            case ["", "v1", "sandboxes", sandbox_id, "openhands", name, *conversation] if name in self._webhooks:
                if len(conversation) > 1:
                    raise NotFound("a path of a webhook ends with at most one conversation id")
                return await self._webhooks[name](_with_method("POST", request), sandbox_id)
            case ["", "v1", "sandboxes", sandbox_id, "payloads", sha256]:
                return await self._upload(_with_method("PUT", request), sandbox_id, sha256)
            case ["", "v1", "chat", "completions"]:
                return await self._complete(_with_method("POST", request))
            case ["", "health"]:
                return answer({"status": "alive", **await self._health()})
            case ["", "ready"]:
                ready = self._ready()
                return answer({"status": "ready" if ready else "starting"}, 200 if ready else 503)
            case _:
                raise NotFound("the gateway has no endpoint at this path")


def _with_method(method: str, request: WorkerRequest) -> WorkerRequest:
    if request.method != method:
        raise MethodNotAllowed(f"this endpoint accepts only the method {method}")
    return request
