"""Pages by key, newest first: the next page continues after the last row, whatever was added meanwhile."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from muster.common.faults import InvalidMessage
from muster.common.storable import in_calendar


class PageCursor(msgspec.Struct, frozen=True, array_like=True):
    """The row after which a page begins."""

    at: datetime
    id: str

    def cursor(self) -> str:
        """Return the cursor as an opaque text."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @staticmethod
    def parse(cursor: str) -> "PageCursor":
        """Return the cursor of a client's text. Raises `InvalidMessage`."""
        try:
            place = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=PageCursor)
        except (binascii.Error, ValueError, msgspec.DecodeError):
            place = None
        if place is None or place.at.tzinfo is None or not in_calendar(place.at) or "\0" in place.id:
            raise InvalidMessage("this is no cursor of this list", field="$.cursor")
        return place


async def rows_after(
    connection: AsyncConnection,
    query: sa.Select[Any],
    at: sa.ColumnElement[datetime],
    id_: sa.ColumnElement[str],
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[Mapping[Any, Any]], str | None]:
    """Return up to `limit` rows of `query`, ordered by `at` and `id_` downwards, and the next cursor if there are more.

    Raises `InvalidMessage` for a cursor of another list.
    """
    if cursor:
        after = PageCursor.parse(cursor)
        query = query.where(sa.tuple_(at, id_) < sa.tuple_(sa.literal(after.at), sa.literal(after.id)))
    ordered = query.order_by(at.desc(), id_.desc()).limit(limit + 1)
    found = (await connection.execute(ordered)).mappings().all()
    rows = found[:limit]
    more = len(found) > limit
    return rows, PageCursor(rows[-1][at], rows[-1][id_]).cursor() if more else None
