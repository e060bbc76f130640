"""Describes a failed model call in one line: the model, the kind of failure, the provider's words, and the next try."""

from datetime import datetime

import msgspec

from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.model_calls import ModelFailed

KIND = "model_failed"
"""The kind of the events in a task's feed that report a failed model call."""


def failed_call(event: FeedEvent) -> ModelFailed | None:
    """Return the failed model call that an event of a task's feed reports, or None for other events."""
    if event.source != "log" or event.kind != KIND or event.seq is not None:
        return None
    try:
        return msgspec.json.decode(event.body, type=ModelFailed)
    except msgspec.DecodeError:  # An event of a later release may have another form.
        return None


def failure_line(failed: ModelFailed) -> str:
    """Return the sentence about a failed model call, with the time of the next call if there will be one."""
    if failed.retry_at is None:
        return failed.sentence
    return f"{failed.sentence} · next try at {_clock_time(failed.retry_at)}"


def _clock_time(at: datetime) -> str:
    return f"{at.astimezone():%H:%M:%S}"
