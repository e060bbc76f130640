"""How far a client has read a task's feed: one number for each stream, two for each sandbox log, as an opaque token."""

import base64
import binascii
from collections.abc import Iterable
from typing import Annotated, Self

import msgspec

from muster.common.contract import token
from muster.common.faults import InvalidMessage

MOST_TOKEN_CHARS = 32_768
MOST_SANDBOXES = 256
"""More than a task has attempts. Each sandbox that a token names is looked up once."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class LogPosition(msgspec.Struct, array_like=True):
    """All frames up to stream position `frame` are read, and `taken` events of the next one."""

    frame: Count = 0
    taken: Count = 0


class TaskCursor(msgspec.Struct, omit_defaults=True):
    """A position in one task's feed. It names every sandbox known so far, so that resuming misses none."""

    task_id: str = msgspec.field(name="t")
    tasks: Count = msgspec.field(default=0, name="a")
    guardian: Count = msgspec.field(default=0, name="g")
    logs: dict[str, LogPosition] = msgspec.field(default_factory=dict[str, LogPosition], name="s")

    def know(self, sandbox_ids: Iterable[str]) -> None:
        """Add the logs of these sandboxes to the feed."""
        for sandbox_id in sandbox_ids:
            self.logs.setdefault(sandbox_id, LogPosition())

    def token(self) -> str:
        """Return the cursor as an opaque token."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str, task_id: str) -> Self | None:
        """Return the cursor of a token; None if no feed of this task gave it out."""
        if len(text) > MOST_TOKEN_CHARS or not text.isascii():
            return None
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            position = msgspec.json.decode(raw, type=cls)
            for sandbox_id in position.logs:
                token(sandbox_id)
        except (binascii.Error, UnicodeDecodeError, msgspec.DecodeError, RecursionError, InvalidMessage):
            return None
        return position if position.task_id == task_id and len(position.logs) <= MOST_SANDBOXES else None
