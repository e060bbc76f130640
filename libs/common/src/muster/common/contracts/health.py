"""The reply of `GET /api/health`."""

from typing import Literal

from muster.common.contract import Message


class PartHealth(Message):
    """The health of one service or server, as the management API sees it. `seconds` is the time until its answer."""

    status: Literal["ok", "down"]
    seconds: float | None = None
    detail: str | None = None


class Health(Message):
    """The health of the whole system. The status is `degraded` if a service or server is down."""

    status: Literal["ok", "degraded"]
    version: str
    parts: dict[str, PartHealth]
