"""The door around every route: trace, who and whether he may, limits, audit, headers, and no stack trace, ever."""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

import structlog
from starlette.requests import ClientDisconnect

from muster.common.clock import Clock
from muster.common.contracts.audit import Audited
from muster.common.faults import Fault, Forbidden, NotFound, TooMany, Unauthenticated
from muster.common.ids import NewId
from muster.common.trace import continue_trace
from muster.management_api.domain.allowance import Allowance
from muster.management_api.domain.heads import refuse_repeated
from muster.management_api.domain.limits import Accepted, Limit, Taken
from muster.management_api.domain.principals import Principal
from muster.management_api.domain.roles import MethodNotAllowed, Row, Table, refuse
from muster.management_api.routes.answers import refusal

log = structlog.get_logger()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Record = Callable[[Audited], Awaitable[None]]

NOBODY = "nobody"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_STATUS_CLIENT_ERROR = 400
_REFUSED = {401: "unauthenticated", 403: "forbidden", 429: "too-many"}
"""Refusals of the door itself, which are written down as far as their allowance goes."""


class Identifying(Protocol):
    """Who knows the callers."""

    async def identify(self, authorization: bytes) -> Principal:
        """Of an `Authorization` header. Raises `Unauthenticated`, `Forbidden`, or `Unavailable`."""
        ...

    def concealed(self, text: str, authorization: bytes) -> str:
        """`text` without any credential that was put there by mistake."""
        ...


class Limited(TooMany):
    """Too many requests; `retry_after_s` says when there is room again."""

    def __init__(self, text: str, *, taken: Taken) -> None:
        super().__init__(text)
        self.retry_after_s = taken.reset_s


class Door:
    """Wraps the application."""

    def __init__(
        self,
        app: App,
        *,
        table: Table,
        callers: Identifying,
        per_principal: Limit,
        per_address: Limit,
        record: Record,
        now: Clock,
        new_id: NewId,
    ) -> None:
        self._app, self._table, self._callers = app, table, callers
        self._per_principal, self._per_address = per_principal, per_address
        self._accepted = Accepted()
        self._record, self._now, self._new_id = record, now, new_id
        self._monotonic = asyncio.get_running_loop().time
        self._allowances = {
            401: Allowance(burst=50, per_second=1.0),
            403: Allowance(burst=500, per_second=10.0),
            429: Allowance(burst=20, per_second=1.0),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            raise ValueError(f"only HTTP is served here, not {scope['type']}")
        headers = dict(scope["headers"])
        given = headers.get(b"traceparent", b"").decode("latin-1")
        trace_id = continue_trace(given if _TRACEPARENT.fullmatch(given) else None)
        request = _Request(self, scope, send, trace_id, headers.get(b"authorization", b""))
        try:
            await self._answer(request, receive)
        except Exception as error:
            if isinstance(error, ClientDisconnect) or (isinstance(error, OSError) and request.begun):
                return  # the client went away
            if not isinstance(error, Fault):
                log.exception("request failed", method=scope["method"], path=self._path(request))
            if not request.begun:
                await refusal(Fault.of(error))(scope, receive, request.send)

    async def _answer(self, request: "_Request", receive: Receive) -> None:
        scope = request.scope
        refuse_repeated(scope["headers"])
        methods = self._table.methods(scope["path"])
        row = methods.get(scope["method"]) if methods else None
        request.reads = scope["method"] in _READS or (row is not None and row.reads)
        if row is None or row.least is not None:
            try:
                await self._admit(request, row)
            except Fault as fault:
                request.refused = fault.status
                raise
        if methods is None:
            raise NotFound("there is nothing at this path")
        if row is None:
            there = ", ".join(sorted(methods))
            raise MethodNotAllowed(f"{scope['method'][:20]} is not possible here, only {there}", allowed=methods)
        await self._app(scope, receive, request.send)

    async def _admit(self, request: "_Request", row: Row | None) -> None:
        """Let the caller in. Raises the `Fault` that they are told instead.

        An address that has sent too many wrong credentials has no others looked up, except those that were accepted
        lately: whoever guesses must not lock out the callers behind the same address.
        """
        source, given = request.source or NOBODY, request.authorization
        refusals = self._per_address.look(source, self._monotonic())
        if not refusals.allowed and given not in self._accepted:
            raise Limited("too many wrong or missing keys from your address", taken=refusals)
        try:
            principal = await self._callers.identify(given)
        except Unauthenticated:
            self._accepted.discard(given)
            self._per_address.take(source, self._monotonic())
            raise
        self._accepted.add(given)
        request.scope["who"], request.scope["principal"] = principal.name, principal
        taken = request.taken = self._per_principal.take(principal.name, self._monotonic())
        if not taken.allowed:
            raise Limited(f"{principal.name} may send {taken.limit} requests in {taken.window_s} s", taken=taken)
        if row is not None:
            refuse(principal, row)
        elif principal.role is None:
            raise Forbidden("you have no role here yet: ask an administrator to give you one")

    def _path(self, request: "_Request") -> str:
        return self._callers.concealed(request.scope["path"], request.authorization)[:200]

    async def audit(self, request: "_Request", status: int, location: str | None) -> None:
        """Write down a write, and every refused caller, now that the outcome is known."""
        detail: dict[str, Any] = {"status": status, "trace_id": request.trace_id}
        if location:
            detail["location"] = location
        if request.refused in self._allowances:
            left_out = self._allowances[request.refused].take(self._monotonic())
            if left_out is None:
                return
            detail["left_out_before"] = left_out
        scope, principal = request.scope, request.scope.get("principal")
        if principal is not None and principal.key_id:
            detail["user_id"] = principal.user_id
        await self._record(
            Audited(
                service="management_api",
                action=_REFUSED.get(request.refused or 0) or getattr(scope.get("route"), "name", None) or "unrouted",
                event_id=self._new_id("evt"),
                at=self._now(),
                who=principal.name if principal is not None else NOBODY,
                what=f"{scope['method'][:20]} {self._path(request)}",
                outcome="done" if status < _STATUS_CLIENT_ERROR else "refused",
                source=request.source,
                detail=detail,
            )
        )


class _Request:
    """One request on its way through the door."""

    def __init__(self, door: Door, scope: Scope, send: Send, trace_id: str, authorization: bytes) -> None:
        self._door, self._send = door, send
        self.scope, self.trace_id, self.authorization = scope, trace_id, authorization
        self.source: str | None = scope["client"][0] if scope.get("client") else None
        self.refused: int | None = None
        self.taken: Taken | None = None
        self.begun = False
        self.reads = scope["method"] in _READS

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Before the answer begins: its headers are completed and the write is audited."""
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            if self.refused in _REFUSED or not self.reads:
                location = next((value.decode() for name, value in headers if name.lower() == b"location"), None)
                await self._door.audit(self, message["status"], location)
            present = {name.lower() for name, _ in headers}
            headers += [header for header in _ALWAYS if header[0] not in present]
            if b"cache-control" not in present:
                headers.append((b"cache-control", b"no-store"))
            headers.append((b"x-trace-id", self.trace_id.encode()))
            headers += _limits(self.taken) if self.taken else []
            self.begun = True
            message = {**message, "headers": headers}
        await self._send(message)


def _limits(taken: Taken) -> list[tuple[bytes, bytes]]:
    return [
        (b"ratelimit-policy", b"%d;w=%d" % (taken.limit, taken.window_s)),
        (b"ratelimit-limit", b"%d" % taken.limit),
        (b"ratelimit-remaining", b"%d" % taken.remaining),
        (b"ratelimit-reset", b"%d" % taken.reset_s),
    ]
