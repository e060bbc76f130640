"""Stores requests with an `Idempotency-Key` and their replies in a table, one row for each caller and key."""

import asyncio
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from muster.common.clock import Clock
from muster.common.faults import InvalidMessage, Unavailable
from muster.management_api.database.engine import ApiDatabase
from muster.management_api.database.tables import idempotency as rows
from muster.management_api.http.idempotency.rules import FIELD, KEPT, LEASE, Attempted, KeptAnswer, RequestUnderWay

EXPIRY_EVERY_S = 600.0


class StoredReplies:
    """Stores each request with an `Idempotency-Key`, and the reply to the request."""

    def __init__(self, database: ApiDatabase, *, now: Clock) -> None:
        self._database, self._now = database, now

    async def begin(self, request: Attempted) -> KeptAnswer | datetime:
        """Return the stored reply to a request. If there is none, record that the request is under way.

        In the second case, returns the time at which the request was first recorded. Raises `RequestUnderWay` while
        another request with the same key is under way, and `InvalidMessage` if the key belongs to another request.
        """
        now = self._now()
        async with self._database.single() as connection:
            if (began := await connection.scalar(_take(request, now))) is not None:
                return began
            found = (await connection.execute(_find(request))).one_or_none()
        if found is None:  # Between the two statements the request's row expired and was deleted.
            raise RequestUnderWay("the key of this request has just expired; send the request again", field=FIELD)
        if (found.method, found.path, found.body_hash) != (request.method, request.path, request.body_hash):
            raise InvalidMessage("this Idempotency-Key was used for another request; choose a new key", field=FIELD)
        if found.status is None:
            left_s = max(1, int((found.expires_at - now).total_seconds()) + 1)
            raise RequestUnderWay(
                "the first request with this key has no answer yet; send it later", field=FIELD, retry_after_s=left_s
            )
        return KeptAnswer(status=found.status, headers=found.headers, body=found.body)

    async def end(self, request: Attempted, began: datetime, answer: KeptAnswer) -> bool:
        """Store the reply to a request. Returns False if a repeated request was executed and answered meanwhile."""
        kept = {"status": answer.status, "headers": answer.headers, "body": answer.body, "expires_at": began + KEPT}
        return await self._change(request, began, kept)

    async def release(self, request: Attempted, began: datetime) -> None:
        """Release the key of a request without a reply, so that the next request with this key is executed at once."""
        await self._change(request, began, {"expires_at": self._now()})

    async def expire(self) -> None:
        """Delete expired requests and replies every ten minutes, until cancelled. `supervise` must run this loop."""
        while True:
            try:
                async with self._database.single() as connection:
                    await connection.execute(_too_old(self._now()))
            except Unavailable:
                pass  # Expired rows have no effect, and the loop tries again to delete them.
            await asyncio.sleep(EXPIRY_EVERY_S)

    async def _change(self, request: Attempted, began: datetime, fields: dict[str, Any]) -> bool:
        mine = (_of(request)) & (rows.c.created_at == began) & rows.c.status.is_(None)
        async with self._database.single() as connection:
            return bool((await connection.execute(rows.update().where(mine).values(fields))).rowcount)


def _take(request: Attempted, now: datetime) -> Any:  # noqa: ANN401 - a statement
    """Return the SQL statement that records a request as under way.

    The statement changes a row if the request is new, if its key has expired, or if the replica that executed the
    request died before the reply.
    """
    added = insert(rows).values(
        principal=request.principal,
        key=request.key,
        method=request.method,
        path=request.path,
        body_hash=request.body_hash,
        created_at=now,
        expires_at=now + LEASE,
    )
    new = added.excluded
    too_old = rows.c.created_at <= now - KEPT
    left = (
        rows.c.status.is_(None)
        & (rows.c.expires_at <= now)
        & (rows.c.method == new.method)
        & (rows.c.path == new.path)
        & (rows.c.body_hash == new.body_hash)
    )
    return added.on_conflict_do_update(
        index_elements=[rows.c.principal, rows.c.key],
        set_={
            "method": new.method,
            "path": new.path,
            "body_hash": new.body_hash,
            "status": None,
            "headers": None,
            "body": None,
            # The ids that a request creates are derived from `created_at`. A repeated request must create the same ids,
            # so it does not change `created_at`.
            "created_at": sa.case((too_old, new.created_at), else_=rows.c.created_at),
            "expires_at": new.expires_at,
        },
        where=too_old | left,
    ).returning(rows.c.created_at)


def _too_old(now: datetime) -> Any:  # noqa: ANN401 - a statement
    """Return the SQL statement that deletes requests whose key has expired, but no request that is under way.

    A key expires at the time `created_at` + `KEPT`. The condition on `expires_at` excludes the requests under way. It
    also lets PostgreSQL use an index, which only the column `expires_at` has.
    """
    return rows.delete().where(rows.c.expires_at <= now, rows.c.created_at <= now - KEPT)


def _find(request: Attempted) -> Any:  # noqa: ANN401 - a statement
    return sa.select(rows).where(_of(request))


def _of(request: Attempted) -> Any:  # noqa: ANN401 - a condition
    return (rows.c.principal == request.principal) & (rows.c.key == request.key)
