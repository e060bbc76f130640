"""What `GET /api/health` answers."""

from typing import Literal

from muster.common.contract import Message


class PartHealth(Message):
    """One part as the API reaches it now; `seconds` is how long its answer took."""

    status: Literal["ok", "down"]
    seconds: float | None = None
    detail: str | None = None


class Health(Message):
    """`degraded` when a part is down."""

    status: Literal["ok", "degraded"]
    version: str
    parts: dict[str, PartHealth]
