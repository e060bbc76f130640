"""The cursor of a task's feed: the position up to which a client has read each log of the feed, as an opaque token."""

import base64
import binascii
from collections.abc import Iterable
from typing import Annotated, Self

import msgspec

from muster.common.contract import token
from muster.common.faults import InvalidMessage

MOST_TOKEN_CHARS = 32_768
MOST_SANDBOXES = 256
"""Most sandboxes in a token, more than a task can have attempts. The API looks up each sandbox of a token."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class LogPosition(msgspec.Struct, array_like=True):
    """A client's position in a sandbox's log.

    The client has read all frames up to the stream position `frame`, and `taken` events of the next frame.
    """

    frame: Count = 0
    taken: Count = 0


class TaskCursor(msgspec.Struct, omit_defaults=True):
    """The position of a client in the feed of one task.

    The cursor contains every known sandbox of the task, so that a resumed feed reads all of their logs.
    """

    task_id: str = msgspec.field(name="t")
    tasks: Count = msgspec.field(default=0, name="a")
    guardian: Count = msgspec.field(default=0, name="g")
    logs: dict[str, LogPosition] = msgspec.field(default_factory=dict[str, LogPosition], name="s")

    def know(self, sandbox_ids: Iterable[str]) -> None:
        """Add sandboxes of the task to the cursor; the task's feed reads the logs of new ones from the beginning."""
        for sandbox_id in sandbox_ids:
            self.logs.setdefault(sandbox_id, LogPosition())

    def token(self) -> str:
        """Return the cursor of the task's feed as an opaque token for the client."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str, task_id: str) -> Self | None:
        """Parse a token that a client has sent. Returns None if it is not the cursor of a feed of this task."""
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
