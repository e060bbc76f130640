"""`Idempotency-Key` on a POST: the request is carried out once, and its reply is repeated.

```
new key ─▶ under way ──reply stored──▶ answered (repetitions get the stored reply, for a day)
               └── replica dies, or no final reply ──▶ the next request with the key is carried out, with the same ids
```

Ids that a request creates are derived from its key, so a repetition after a crash creates nothing twice.
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
from muster.management_api.http.parts import part_of
from muster.management_api.http.problems import refusal

log = structlog.get_logger()

Key = Annotated[
    str | None,
    Header(
        alias=FIELD,
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="The same key with the same request is done once; its answer is repeated for 24 hours, "
        "with `Idempotency-Replayed: true`.",
    ),
]
Mint = Callable[[Prefix], str]
"""Creates an id; under an `Idempotency-Key` always the same one, so that a repetition creates nothing twice."""


class Replayed(Exception):
    """The request was answered before; holds the stored reply."""

    def __init__(self, kept: KeptAnswer) -> None:
        self.response = Response(kept.body, kept.status, {**kept.headers, "Idempotency-Replayed": "true"})


class Idempotency:
    """The dependency of every POST; its value is a `Mint`. `secret`: the reply holds a secret, and is not stored."""

    def __init__(self, *, secret: bool = False) -> None:
        self._secret = secret

    async def __call__(self, request: Request, key: Key = None) -> Mint:
        """Claim the key. Raises `Replayed`, `RequestUnderWay`, or `InvalidMessage` for the key of another request."""
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
    """Creates ids, and stores which requests were answered under an `Idempotency-Key`."""

    def __init__(self, answered: StoredReplies, new_id: NewId) -> None:
        self.answered, self.new_id = answered, new_id


class Claim:
    """One request that is under way under a key."""

    def __init__(self, answered: StoredReplies, request: Attempted, began: datetime, *, secret: bool) -> None:
        self._answered, self._request, self._began, self._secret = answered, request, began, secret

    async def settle(self, answer: Response) -> Response:
        """Store the reply, then return it.

        Raises `Unavailable` if the reply holds a secret and could not be stored: a repetition creates the secret again,
        so the first secret must not be sent.
        """
        secret = self._secret and answer.status_code < HTTPStatus.BAD_REQUEST
        settled = await self._settled(_told_once() if secret else answer)
        if secret and not settled:
            raise Unavailable("this was done, but could not be written down; send it again with the same key")
        return answer

    async def _settled(self, answer: Response) -> bool:
        """Return whether the reply was stored. If it was not, the request stays carried out."""
        try:
            if keeps(answer.status_code):
                return await self._answered.end(self._request, self._began, _kept(answer))
            await self._answered.release(self._request, self._began)
        except Fault as fault:
            log.warning("idempotent reply not stored", error=str(fault))
        return False


def add_handler(app: FastAPI) -> None:
    """Return the stored reply."""
    app.add_exception_handler(Replayed, _replay)


async def _replay(request: Request, replayed: Exception) -> Response:
    del request
    assert isinstance(replayed, Replayed)
    return replayed.response


def _told_once() -> Response:
    return refusal(Conflict("this was done, and its secret was told once: revoke it, and make another"))


def _kept(answer: Response) -> KeptAnswer:
    headers = {name: value for name, value in answer.headers.items() if name in KEPT_HEADERS}
    return KeptAnswer(status=answer.status_code, headers=headers, body=bytes(answer.body))


def _as_sent(request: Request) -> str:
    """Return path and query, still encoded: a decoded path may hold what cannot be stored."""
    path, query = request.scope["raw_path"].decode("latin-1"), request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


Idempotent = Annotated[Mint, Depends(Idempotency())]
IdempotentSecret = Annotated[Mint, Depends(Idempotency(secret=True))]
