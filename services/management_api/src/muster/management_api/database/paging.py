"""Reads lists from the database in pages, newest rows first.

A page begins after the last row of the previous page. So rows that are added meanwhile move no row to another page.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from muster.common.faults import InvalidMessage
from muster.common.storable_values import in_calendar


class PageCursor(msgspec.Struct, frozen=True, array_like=True):
    """The time and the id of the row after which a page of a list begins."""

    at: datetime
    id: str

    def cursor(self) -> str:
        """Return the cursor as an opaque text for clients."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @staticmethod
    def parse(cursor: str) -> "PageCursor":
        """Parse a cursor that a client has sent. Raises `InvalidMessage` if the text is not a cursor."""
        try:
            place = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=PageCursor)
        except (binascii.Error, ValueError, msgspec.DecodeError):
            place = None
        if place is None or place.at.tzinfo is None or not in_calendar(place.at) or "\0" in place.id:
            raise InvalidMessage("the cursor is not valid; send a next_cursor of the same list", field="$.cursor")
        return place


async def rows_after(
    connection: AsyncConnection,
    query: sa.Select[Any],
    at: sa.ColumnElement[datetime],
    id_: sa.ColumnElement[str],
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[Mapping[Any, Any]], str | None]:
    """Return up to `limit` rows of `query`, and the cursor of the next page if there are more rows.

    The rows are in descending order of `at` and `id_`. Raises `InvalidMessage` if `cursor` is not a cursor.
    """
    if cursor:
        after = PageCursor.parse(cursor)
        query = query.where(sa.tuple_(at, id_) < sa.tuple_(sa.literal(after.at), sa.literal(after.id)))
    ordered = query.order_by(at.desc(), id_.desc()).limit(limit + 1)
    found = (await connection.execute(ordered)).mappings().all()
    rows = found[:limit]
    more = len(found) > limit
    return rows, PageCursor(rows[-1][at], rows[-1][id_]).cursor() if more else None
