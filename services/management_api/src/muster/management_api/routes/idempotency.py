"""`Idempotency-Key` on any POST: done once, its answer repeated. Inside the door, around every route."""

from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response

from muster.common.faults import Conflict, Fault, Unavailable
from muster.management_api.domain.idempotency import (
    FIELD,
    KEPT_HEADERS,
    Attempted,
    KeptAnswer,
    attempted,
    keeps,
    seed,
)
from muster.management_api.routes.answers import refusal
from muster.management_api.routes.bodies import whole
from muster.management_api.store.idempotency import Answered

log = structlog.get_logger()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Idempotent:
    """Wraps the application. Requests without a key pass."""

    def __init__(self, app: App, answered: Answered) -> None:
        self._app, self._answered = app, answered

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """One request."""
        return (self._post if scope["method"] == "POST" else self._app)(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        given = request.headers.get(FIELD)
        if given is None:
            await self._app(scope, receive, send)
            return
        try:
            await self._once(request, given, send)
        except Fault as fault:
            await refusal(fault)(scope, receive, send)

    async def _once(self, request: Request, key: str, send: Send) -> None:
        body = await whole(request)
        wanted = attempted(
            principal=request.scope["principal"].name,
            key=key,
            method=request.method,
            path=_as_sent(request.scope),
            body=body,
        )
        begun = await self._answered.begin(wanted)
        if isinstance(begun, KeptAnswer):
            replay = Response(begun.body, begun.status, {**begun.headers, "Idempotency-Replayed": "true"})
            await replay(request.scope, request.receive, send)
            return
        answer, settled = _Answer(), False
        try:
            request.scope["seed"] = seed(wanted, begun)
            await self._app(request.scope, _again(body, request.receive), answer.take)
        finally:
            answer.secret = getattr(request.scope.get("route"), "secret", False)
            settled = await self._settle(wanted, begun, answer.kept())
        if answer.holds_secret and not settled:
            # A repetition that finds no answer kept may rely on it: nobody was told the secret.
            raise Unavailable("this was done, but could not be written down; send it again with the same key")
        await answer.give(send)

    async def _settle(self, request: Attempted, began: datetime, answer: KeptAnswer | None) -> bool:
        """Keep the answer before it is given. That it cannot be kept does not undo what was done."""
        try:
            if answer is not None and keeps(answer.status):
                return await self._answered.end(request, began, answer)
            await self._answered.release(request, began)
        except Fault as fault:
            log.warning("answer not kept", error=str(fault))
        return False


class _Answer:
    """An answer held back until it is kept."""

    def __init__(self) -> None:
        self._messages: list[MutableMapping[str, Any]] = []
        self.secret = False

    async def take(self, message: MutableMapping[str, Any]) -> None:
        """In the place of the client."""
        self._messages.append(message)

    async def give(self, send: Send) -> None:
        """To the client."""
        for message in self._messages:
            await send(message)

    @property
    def holds_secret(self) -> bool:
        """Whether there is one in it: a refusal has none."""
        return self.secret and bool(self._messages) and self._messages[0]["status"] < HTTPStatus.BAD_REQUEST

    def kept(self) -> KeptAnswer | None:
        """What is to be kept of it; None if there was none. In the place of a secret it is said that it was told."""
        if not self._messages:
            return None
        start, *rest = self._messages
        if self.holds_secret:
            told = refusal(Conflict("this was done, and its secret was told once: revoke it, and make another"))
            return KeptAnswer(status=told.status_code, headers=dict(told.headers), body=bytes(told.body))
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
        return KeptAnswer(
            status=start["status"],
            headers={name: value for name, value in headers.items() if name in KEPT_HEADERS},
            body=b"".join(message.get("body", b"") for message in rest),
        )


def _as_sent(scope: Scope) -> str:
    """Path and query, still encoded: decoded, a path may hold what cannot be stored."""
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, for who reads it next."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> MutableMapping[str, Any]:
        return messages.pop() if messages else await receive()

    return read
