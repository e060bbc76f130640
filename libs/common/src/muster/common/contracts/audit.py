"""Who did what, from where, with which outcome: the stream `AUDIT`, which nobody may delete from."""

from datetime import datetime
from typing import Any

from muster.common.contract import Event


class Audited(Event, subject="audit.{service}.{action}"):
    """One audited act. `event_id` is the message id."""

    service: str
    action: str
    event_id: str
    at: datetime
    who: str
    what: str
    outcome: str
    source: str | None = None
    detail: dict[str, Any] = {}
