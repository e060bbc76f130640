"""Describes connections of a sandbox in one line: the host, and the transferred bytes or the reason of a refusal."""

import msgspec

from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.sandbox_log import NetworkConnection

KIND = "connection"
"""The kind of the events in a task's feed that report connections of the sandbox."""


def network_connection(event: FeedEvent) -> NetworkConnection | None:
    """Return the connections that an event of a task's feed reports, or None for other events."""
    if event.source != "log" or event.kind != KIND or event.seq is not None:
        return None
    try:
        return msgspec.json.decode(event.body, type=NetworkConnection)
    except msgspec.DecodeError:  # An event of a later release may have another form.
        return None
