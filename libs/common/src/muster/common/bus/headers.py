"""Headers of NATS messages: CloudEvents in binary mode, W3C trace context and error headers (architecture §4)."""

from collections.abc import Mapping

from muster.common.clock import Clock, rfc3339
from muster.common.contract import Message
from muster.common.ids import NewId
from muster.common.trace import traceparent

MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"
ERROR = "Nats-Service-Error"
ERROR_STATUS = "Nats-Service-Error-Code"
TRACE = "traceparent"
SOURCE = "ce-source"
NAMES = frozenset(
    {f"ce-{name}" for name in ("specversion", "id", "type", "source", "time")}
    | {MESSAGE_ID, EXPECTED_LAST, ERROR, ERROR_STATUS, TRACE}
)
"""Every header that our messages carry."""

Headers = Mapping[str, str]


class Envelope:
    """Creates the headers of the messages that one service sends."""

    def __init__(self, source: str, *, now: Clock, new_id: NewId) -> None:
        self._source, self._now, self._new_id = source, now, new_id

    def headers(self, message: Message, message_id: str | None = None) -> dict[str, str]:
        """Return the headers for `message`. The message's id is `message_id`, or a new id."""
        return {
            "ce-specversion": "1.0",
            "ce-id": message_id or self._new_id("evt"),
            "ce-type": type(message).__name__,
            SOURCE: self._source,
            "ce-time": rfc3339(self._now()),
            TRACE: traceparent(),
        }
