"""The audit events in the stream `AUDIT`: caller, action, origin and outcome. No role may delete from this stream."""

from datetime import datetime
from typing import Any

from muster.common.contract import Event


class Audited(Event, subject="audit.{service}.{action}"):
    """One audited action. `event_id` is the message id in the stream."""

    service: str
    action: str
    event_id: str
    at: datetime
    who: str
    what: str
    outcome: str
    source: str | None = None
    detail: dict[str, Any] = {}
