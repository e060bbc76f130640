"""The progress of a stack: which part starts, which part is ready, and how long each start took."""

from collections.abc import Callable
from typing import Literal

import msgspec

PartState = Literal["starting", "migrated", "ready", "failed", "died", "restarted", "stopped"]


class PartProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the state of one part of the stack."""

    part: str
    state: PartState
    """`migrated`: the database schema of the part is up to date; its process starts later. `died`: another process of
    the part was started because the last one died. `restarted`: another process was started on request."""
    seconds: float = 0.0
    """Seconds that the start, the failed start, the migration or the stop of the part took; 0 for the other states."""


ProgressListener = Callable[[PartProgress], None]
