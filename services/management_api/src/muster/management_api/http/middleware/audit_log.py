"""Writes one audit entry for each HTTP write and each refused caller, before the response begins."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.requests import HTTPConnection
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muster.common.clock import Clock
from muster.common.contracts.audit import Audited
from muster.common.ids import NewId
from muster.common.trace import trace_id
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.domain.roles import Requirement
from muster.management_api.access.routes.admission import UNKNOWN, Admission, source_of
from muster.management_api.http.application_parts import part_of
from muster.management_api.http.audit_rate_limit import AuditRateLimit
from muster.management_api.http.middleware.asgi import begins

Record = Callable[[Audited], Awaitable[None]]

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_REFUSED = {401: "unauthenticated", 403: "forbidden", 429: "too-many"}
"""Statuses of refused callers and the actions of their audit entries. The number of these entries is limited."""
_STATUS_CLIENT_ERROR = 400


class AuditLog:
    """Middleware that writes audit entries for requests that change something or whose caller was refused."""

    def __init__(
        self, app: ASGIApp, *, record: Record, now: Clock, new_id: NewId, monotonic: Callable[[], float]
    ) -> None:
        self._app = app
        self._record, self._now, self._new_id, self._monotonic = record, now, new_id, monotonic
        self._allowances = {
            401: AuditRateLimit(burst=50, per_second=1.0),
            403: AuditRateLimit(burst=500, per_second=10.0),
            429: AuditRateLimit(burst=20, per_second=1.0),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, and write its audit entry before the first message of the response is sent."""
        scope.setdefault("state", {})

        async def audited(message: Message) -> None:
            if begins(message) and "requirement" in scope["state"]:
                await self._audit(HTTPConnection(scope), message)
            await send(message)

        await self._app(scope, receive, audited)

    async def _audit(self, connection: HTTPConnection, answer: Message) -> None:
        status: int = answer["status"]
        principal: Principal | None = getattr(connection.state, "caller", None)
        reads, admitted = _reads(connection), hasattr(connection.state, "principal")
        refused = status if status in _REFUSED and (reads or not admitted) else None
        if refused is None and reads:
            return
        detail: dict[str, Any] = {"status": status, "trace_id": trace_id()}
        if refused is not None:
            left_out = self._allowances[refused].take(self._monotonic())
            if left_out is None:
                return
            detail["left_out_before"] = left_out
        headers = Headers(raw=answer["headers"])
        if location := headers.get("location"):
            detail["location"] = location
        if "idempotency-replayed" in headers:
            detail["replayed"] = True
        if principal is not None and principal.key_id:
            detail["user_id"] = principal.user_id
        path = part_of(connection, Admission).concealed(connection)
        await self._record(
            Audited(
                service="management_api",
                action=_REFUSED[refused] if refused is not None else action(connection.scope),
                event_id=self._new_id("evt"),
                at=self._now(),
                who=principal.name if principal is not None else UNKNOWN,
                what=f"{connection.scope.get('method', 'WEBSOCKET')} {path}",
                outcome="done" if status < _STATUS_CLIENT_ERROR else "refused",
                source=source_of(connection),
                detail=detail,
            )
        )


def action(scope: Scope) -> str:
    """Return the name of the request's route, with hyphens; `none` if no route matches the request."""
    name: str = getattr(scope.get("route"), "name", "none")
    return name.replace("_", "-")


def _reads(connection: HTTPConnection) -> bool:
    """Return whether the request's route changes nothing.

    A search changes nothing but is a POST, because its parameters may be too long for a query string.
    """
    requirement: Requirement = connection.state.requirement
    return connection.scope.get("method", "GET") in _READS or bool(
        requirement.scope and requirement.scope.endswith(":read")
    )
