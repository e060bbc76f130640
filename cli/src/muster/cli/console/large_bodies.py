"""Describes the bodies of events that are too large for the sandbox log, of which the event has the head and tail."""

import msgspec

from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.sandbox_log import ClippedBody
from muster.common.terminal import one_line

WHOLE_BODY = "whole body: "
"""The beginning of the line with the command that writes the whole body."""
_CLIPPED = b'"clipped":true'


def large_body_text(event: FeedEvent) -> str:
    """Return the size of a large body and, on a second line, the command that writes it; else an empty string.

    A body that is not kept has the reason on the first line and no second line.
    """
    clipped = _clipped(event)
    if clipped is None:
        return ""
    size = f"{clipped.size / (1 << 20):.1f} MiB" + (", redacted" if clipped.redacted else "")
    first = one_line(f"{size}: {clipped.why}" if clipped.why else size)
    return f"{first}\n{WHOLE_BODY}muster task payload {event.task_id} {event.payload}" if event.payload else first


def _clipped(event: FeedEvent) -> ClippedBody | None:
    body = bytes(event.body)
    if event.seq is None or _CLIPPED not in body[:64]:
        return None
    try:
        return msgspec.json.decode(body, type=ClippedBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
