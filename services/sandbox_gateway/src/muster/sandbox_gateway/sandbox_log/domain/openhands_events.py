"""Converts the webhook requests of the OpenHands agent-server to events of a sandbox's log.

The agent-server posts a JSON list of events to `<base URL>/events/<conversation>`, and the whole description of a
conversation to `<base URL>/conversations`. Its events have an id, but no seq. A refused request is posted again without
end, so `store/payloads.py` keeps a body that is too long, and the event has only its head and tail.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from muster.common.contracts.sandbox_log import (
    MAX_FRAME_BYTES,
    MAX_FRAME_EVENTS,
    FrameKind,
    LoggedEvent,
)
from muster.sandbox_gateway.sandbox_log.domain.frames import FrameDraft, LogOwner
from muster.sandbox_gateway.sandbox_log.domain.post_checks import check_events, decoded

CONVERSATION = "ConversationInfo"
"""The kind of the events that contain the description of a conversation."""
_ENVELOPE_BYTES = 512
_FRAME_BYTES = MAX_FRAME_BYTES * 3 // 4
_ID_BYTES = 16


class OpenHandsEvent(msgspec.Struct):
    """The fields of an event of OpenHands that its log entry shows."""

    id: str
    kind: str
    source: str
    timestamp: datetime
    parent_id: str | None = None


_lists = msgspec.json.Decoder(list[msgspec.Raw])
_events = msgspec.json.Decoder(OpenHandsEvent)
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


def posted_events(body: bytes) -> list[LoggedEvent]:
    """Return the events of a request with their whole bodies, numbered from 1. Raises `InvalidMessage`, `TooLarge`."""
    events = [_logged(seq, raw) for seq, raw in enumerate(decoded(body, _lists), 1)]
    if events:
        check_events(events, may_be_large=False)
    return events


def posted_conversation(body: bytes, at: datetime) -> LoggedEvent:
    """Return an event with the description of a conversation, which has the same id if the description is the same."""
    decoded(body, _objects)
    identity = hashlib.sha256(body).hexdigest()[: 2 * _ID_BYTES]
    return LoggedEvent(seq=1, event_id=identity, kind=CONVERSATION, at=at, source="environment", body=msgspec.Raw(body))


def next_frame(owner: LogOwner, events: Sequence[LoggedEvent], first: int) -> FrameDraft:
    """Return the draft of a frame with as many of the events as fit into one, numbered from `first`."""
    size, fitting = 0, list[LoggedEvent]()
    for event in events[:MAX_FRAME_EVENTS]:
        size += len(bytes(event.body)) + _ENVELOPE_BYTES
        if fitting and size > _FRAME_BYTES:
            break
        fitting.append(msgspec.structs.replace(event, seq=first + len(fitting)))
    return FrameDraft(owner, FrameKind.EVENTS, first, first + len(fitting), fitting)


def _logged(seq: int, raw: msgspec.Raw) -> LoggedEvent:
    body = bytes(raw)
    event = decoded(body, _events)
    return LoggedEvent(
        seq=seq,
        event_id=event.id,
        kind=event.kind,
        at=event.timestamp if event.timestamp.tzinfo else event.timestamp.replace(tzinfo=UTC),
        source=event.source,
        parent_id=event.parent_id,
        body=raw,
    )
