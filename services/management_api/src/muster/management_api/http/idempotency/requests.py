"""Executes each POST with an `Idempotency-Key` once, and sends the stored reply to repeated requests with the same key.

```
new key ─▶ under way ──reply stored──▶ answered (repeated requests get the stored reply, for a day)
               └── replica dies, or no final reply ──▶ the next request with the key is executed, with the same ids
```

The ids that a request creates are derived from its key. So a request that is repeated after a crash creates nothing
twice.
"""

from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Annotated

import structlog
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import Response

from muster.common.faults import Conflict, Fault, Unavailable
from muster.common.ids import NewId, Prefix, derived_id
from muster.management_api.http.application_parts import part_of
from muster.management_api.http.idempotency.rules import (
    FIELD,
    KEPT_HEADERS,
    Attempted,
    KeptAnswer,
    attempted,
    keeps,
    seed,
)
from muster.management_api.http.idempotency.store import StoredReplies
from muster.management_api.http.problems import refusal

log = structlog.get_logger()

Key = Annotated[
    str | None,
    Header(
        alias=FIELD,
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="A request that is repeated with the same key within 24 hours is executed only once. "
        "The repeated request gets the first reply, with the header `Idempotency-Replayed: true`.",
    ),
]
Mint = Callable[[Prefix], str]
"""Creates an id. With an `Idempotency-Key` the id is always the same, so a repeated request creates nothing twice."""


class Replayed(Exception):
    """A request with the same `Idempotency-Key` was answered before. Contains the stored reply."""

    def __init__(self, kept: KeptAnswer) -> None:
        self.response = Response(kept.body, kept.status, {**kept.headers, "Idempotency-Replayed": "true"})


class Idempotency:
    """The FastAPI dependency that handles the header `Idempotency-Key`. Its value is a function that creates ids.

    With `secret` the reply contains a secret and is not stored.
    """

    def __init__(self, *, secret: bool = False) -> None:
        self._secret = secret

    async def __call__(self, request: Request, key: Key = None) -> Mint:
        """Record that the request with this key is under way, and return a function that creates ids.

        Raises `Replayed` if the request was answered before, and `RequestUnderWay` if it has no answer yet. Raises
        `InvalidMessage` if the key was used for another request.
        """
        ids = part_of(request, RequestIds)
        if key is None:
            return ids.new_id
        wanted = attempted(
            principal=request.state.principal.name,
            key=key,
            method=request.method,
            path=_as_sent(request),
            body=await request.body(),
        )
        begun = await ids.answered.begin(wanted)
        if isinstance(begun, KeptAnswer):
            raise Replayed(begun)
        request.state.claim = Claim(ids.answered, wanted, begun, secret=self._secret)
        made_from = seed(wanted, begun)
        return lambda prefix: derived_id(prefix, made_from)


class RequestIds:
    """The store of replies to requests with an `Idempotency-Key`, and the function that creates ids for requests."""

    def __init__(self, answered: StoredReplies, new_id: NewId) -> None:
        self.answered, self.new_id = answered, new_id


class Claim:
    """A request with an `Idempotency-Key` that this replica is executing."""

    def __init__(self, answered: StoredReplies, request: Attempted, began: datetime, *, secret: bool) -> None:
        self._answered, self._request, self._began, self._secret = answered, request, began, secret

    async def settle(self, answer: Response) -> Response:
        """Store the reply to the request, and then return the reply.

        A reply with a secret is replaced in the store by a refusal. Raises `Unavailable` if this refusal could not be
        stored: a repeated request would create another secret, so the first secret must not be sent.
        """
        secret = self._secret and answer.status_code < HTTPStatus.BAD_REQUEST
        settled = await self._settled(_told_once() if secret else answer)
        if secret and not settled:
            raise Unavailable("the request was executed, but not recorded; send it again with the same Idempotency-Key")
        return answer

    async def _settled(self, answer: Response) -> bool:
        """Store the reply to a request if the reply is final, and return whether the reply was stored.

        A failure to store the reply does not undo the request.
        """
        try:
            if keeps(answer.status_code):
                return await self._answered.end(self._request, self._began, _kept(answer))
            await self._answered.release(self._request, self._began)
        except Fault as fault:
            log.warning("reply to an idempotent request not stored", error=str(fault))
        return False


def add_handler(app: FastAPI) -> None:
    """Make the application answer a repeated request with the stored reply."""
    app.add_exception_handler(Replayed, _replay)


async def _replay(request: Request, replayed: Exception) -> Response:
    del request
    assert isinstance(replayed, Replayed)
    return replayed.response


def _told_once() -> Response:
    return refusal(Conflict("the secret was created and sent only once; revoke its key, and issue another key"))


def _kept(answer: Response) -> KeptAnswer:
    headers = {name: value for name, value in answer.headers.items() if name in KEPT_HEADERS}
    return KeptAnswer(status=answer.status_code, headers=headers, body=bytes(answer.body))


def _as_sent(request: Request) -> str:
    """Return the encoded path and query of a request. A decoded path may contain characters that cannot be stored."""
    path, query = request.scope["raw_path"].decode("latin-1"), request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


Idempotent = Annotated[Mint, Depends(Idempotency())]
IdempotentSecret = Annotated[Mint, Depends(Idempotency(secret=True))]
