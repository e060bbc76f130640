"""Describes the bodies of events that are too large for the sandbox log, of which the event has the head and tail."""

import msgspec

from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.sandbox_log import ClippedBody

_CLIPPED = b'"clipped":true'


def large_body(event: FeedEvent) -> ClippedBody | None:
    """Return the head, tail and size of a large body; None if the event has its body itself."""
    body = bytes(event.body)
    if event.seq is None or _CLIPPED not in body[:64]:
        return None
    try:
        return msgspec.json.decode(body, type=ClippedBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def size_text(clipped: ClippedBody) -> str:
    """Return the size of a large body, and the reason if it was not kept whole."""
    size = f"{clipped.size / (1 << 20):.1f} MiB" + (", redacted" if clipped.redacted else "")
    return f"{size}: {clipped.why}" if clipped.why else size


def fetch_command(event: FeedEvent) -> str:
    """Return the command that shows the whole body of an event; an empty string if it is not kept."""
    return f"muster task payload {event.task_id} {event.payload}" if event.payload else ""
