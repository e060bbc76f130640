"""Requests under an `Idempotency-Key` and their replies: one row for each caller and key."""

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
    """Stores which requests were made under which key, and their replies."""

    def __init__(self, database: ApiDatabase, *, now: Clock) -> None:
        self._database, self._now = database, now

    async def begin(self, request: Attempted) -> KeptAnswer | datetime:
        """Return the stored reply; else mark the request as under way for the caller and return since when.

        Raises `RequestUnderWay` while another request with the key is under way, `InvalidMessage` if the key stands for
        another request.
        """
        now = self._now()
        async with self._database.single() as connection:
            if (began := await connection.scalar(_take(request, now))) is not None:
                return began
            found = (await connection.execute(_find(request))).one_or_none()
        if found is None:  # the row expired and was deleted between the two statements
            raise RequestUnderWay("send it again", field=FIELD)
        if (found.method, found.path, found.body_hash) != (request.method, request.path, request.body_hash):
            raise InvalidMessage("this key was used for another request; choose a new one", field=FIELD)
        if found.status is None:
            left_s = max(1, int((found.expires_at - now).total_seconds()) + 1)
            raise RequestUnderWay(
                "the first request with this key has no answer yet; send it again", field=FIELD, retry_after_s=left_s
            )
        return KeptAnswer(status=found.status, headers=found.headers, body=found.body)

    async def end(self, request: Attempted, began: datetime, answer: KeptAnswer) -> bool:
        """Store the reply; return False if a repetition has taken the request over and answered it."""
        kept = {"status": answer.status, "headers": answer.headers, "body": answer.body, "expires_at": began + KEPT}
        return await self._change(request, began, kept)

    async def release(self, request: Attempted, began: datetime) -> None:
        """Release the key without a reply: the next request with it is carried out at once."""
        await self._change(request, began, {"expires_at": self._now()})

    async def expire(self) -> None:
        """Delete old rows at intervals, until cancelled. Must run under `supervise`."""
        while True:
            try:
                async with self._database.single() as connection:
                    await connection.execute(_too_old(self._now()))
            except Unavailable:
                pass  # expired rows have no effect; they only take up room
            await asyncio.sleep(EXPIRY_EVERY_S)

    async def _change(self, request: Attempted, began: datetime, fields: dict[str, Any]) -> bool:
        mine = (_of(request)) & (rows.c.created_at == began) & rows.c.status.is_(None)
        async with self._database.single() as connection:
            return bool((await connection.execute(rows.update().where(mine).values(fields))).rowcount)


def _take(request: Attempted, now: datetime) -> Any:  # noqa: ANN401 - a statement
    """Take the request: it is new, its key has expired, or the replica that began it died before it replied."""
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
            # The ids that the request created rest on this time: a request that is taken over keeps it.
            "created_at": sa.case((too_old, new.created_at), else_=rows.c.created_at),
            "expires_at": new.expires_at,
        },
        where=too_old | left,
    ).returning(rows.c.created_at)


def _too_old(now: datetime) -> Any:  # noqa: ANN401 - a statement
    """Return the condition for requests whose key has expired. None of them is under way.

    There is an index on `expires_at` and none on `created_at`; few expired rows are younger than `KEPT`.
    """
    return rows.delete().where(rows.c.expires_at <= now, rows.c.created_at <= now - KEPT)


def _find(request: Attempted) -> Any:  # noqa: ANN401 - a statement
    return sa.select(rows).where(_of(request))


def _of(request: Attempted) -> Any:  # noqa: ANN401 - a condition
    return (rows.c.principal == request.principal) & (rows.c.key == request.key)
