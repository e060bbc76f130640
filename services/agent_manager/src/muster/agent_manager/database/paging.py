"""Pages of lists: cursors, and the bound of a look-up by ids."""

import base64
import binascii
from datetime import datetime

from muster.common.clock import rfc3339
from muster.common.contract import token
from muster.common.contracts.limits import LARGEST_PAGE
from muster.common.faults import InvalidMessage


def cursor_after(created_at: datetime, entity_id: str) -> str:
    """Return the cursor of the page that follows this entity, in a list with the newest first."""
    return base64.urlsafe_b64encode(f"{rfc3339(created_at)} {entity_id}".encode()).decode()


def read_cursor(cursor: str) -> tuple[datetime, str]:
    """Return the moment and the id in a cursor. Raises `InvalidMessage` if no list gave it out."""
    try:
        moment, _, entity_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        at = datetime.fromisoformat(moment)
        at.astimezone()  # raises for a time without a zone, or outside the calendar: no cursor has one
    except (ValueError, OverflowError, binascii.Error):
        at, entity_id = None, ""
    if at is None or at.tzinfo is None or not entity_id or "\0" in entity_id:
        raise InvalidMessage("cursor is not one that a list gave out", field="$.cursor")
    return at, entity_id


def few(ids: list[str], field: str) -> list[str]:
    """Return ids for a look-up. Raises `InvalidMessage` if they are more than one reply may hold, or no ids."""
    if len(ids) > LARGEST_PAGE:
        raise InvalidMessage(f"{field} may be at most {LARGEST_PAGE}, not {len(ids)}", field=f"$.{field}")
    return [token(one, f"{field}[{at}]") for at, one in enumerate(ids)]
