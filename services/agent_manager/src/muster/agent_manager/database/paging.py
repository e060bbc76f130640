"""Pages of lists with the newest task or agent first: makes and reads cursors, and selects the rows after a cursor."""

import base64
import binascii
from datetime import UTC, datetime

import sqlalchemy as sa

from muster.common.clock import rfc3339
from muster.common.faults import InvalidMessage
from muster.common.postgres.reading import Rows

_BEFORE_AT = sa.bindparam("before_at", type_=sa.DateTime(timezone=True))
_BEFORE_ID = sa.bindparam("before_id", type_=sa.Text)
_MOST = sa.bindparam("most", type_=sa.Integer)
_AFTER_ALL = (datetime.max.replace(tzinfo=UTC), "")


def cursor_after(created_at: datetime, entity_id: str) -> str:
    """Return the cursor of the page that starts after this task or agent, in a list with the newest first."""
    return base64.urlsafe_b64encode(f"{rfc3339(created_at)} {entity_id}".encode()).decode()


def read_cursor(cursor: str) -> tuple[datetime, str]:
    """Return the time and the id in a cursor. Raises `InvalidMessage` if the cursor is malformed."""
    try:
        moment, _, entity_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        at = datetime.fromisoformat(moment)
        at.astimezone()  # This call raises if the time is out of range; no valid cursor contains such a time.
    except (ValueError, OverflowError, binascii.Error):
        at, entity_id = None, ""
    if at is None or at.tzinfo is None or not entity_id or "\0" in entity_id:
        raise InvalidMessage("cursor is unknown; pass the next_cursor of the previous page", field="$.cursor")
    return at, entity_id


def newest_before(query: Rows, created_at: sa.ColumnElement[datetime], entity_id: sa.ColumnElement[str]) -> Rows:
    """Return `query` limited to one page, newest rows first. `page_values` returns the parameters of the new query."""
    earlier = sa.tuple_(created_at, entity_id) < sa.tuple_(_BEFORE_AT, _BEFORE_ID)
    return query.where(earlier).order_by(created_at.desc(), entity_id.desc()).limit(_MOST)


def page_values(before: tuple[datetime, str] | None, limit: int) -> dict[str, object]:
    """Return the query parameters for a page after `before`, with one row more to detect whether a page follows."""
    before_at, before_id = before or _AFTER_ALL
    return {"before_at": before_at, "before_id": before_id, "most": limit + 1}
