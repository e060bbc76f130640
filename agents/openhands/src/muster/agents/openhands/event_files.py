"""OpenHands' own event files, read as they lie on the disk: they are the outbox, so there is no second copy to lose.

A file is named `event-<index>-<event id>.json`, so the next one cannot be found by its index alone. The SDK's callback
tells the id of each event once its file is on the disk: one `stat` per event then, however long the conversation is.
The folder is listed at start, when asked for (`list_again`), and when a told event is not the next one.
"""

import os
import re
import threading
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from muster.agent.steering import message_id
from muster.common.contracts.sandbox_log import LoggedEvent

_FILE = re.compile(r"event-(\d{5,})-[0-9a-fA-F-]{8,}\.json")
_RECENT = 64
"""Events that a listing may find before they are told of: as many as one thread writes while another lists."""


class EventHead(msgspec.Struct):
    """What Muster reads of an event; all else stays raw, so that a new kind is never in the way."""

    id: str
    timestamp: str
    source: str
    kind: str
    parent_id: str | None = None
    sender: str | None = None


class EventFiles:
    """The events of one conversation, in the order of their index; `seq` is the index plus one. Any thread may ask."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # the beat counts while the outbox reads
        self._files: list[str] = []
        self._ahead: dict[int, str] = {}
        self._written: deque[str] = deque()
        self._listed = False

    def written(self, event_id: str) -> None:
        """Take note of an event whose file was just written."""
        self._written.append(event_id)

    def list_again(self) -> None:
        """Have the next look list the folder: for events that `written` was not called for."""
        self._listed = False

    def count(self) -> int:
        """How many lie there without a hole before them."""
        with self._lock:
            while self._written:
                self._follow(self._written.popleft())
            if not self._listed:
                self._list()
            return len(self._files)

    def read(self, start: int, limit: int) -> list[LoggedEvent]:
        """Events from an index on, as the log takes them."""
        if start + limit > len(self._files):
            self.count()
        return [self._logged(index, name) for index, name in enumerate(self._files[start : start + limit], start)]

    def heads(self) -> list[EventHead]:
        """All events, without what they carry."""
        self.list_again()
        self.count()
        return [msgspec.json.decode(self._body(name), type=EventHead) for name in self._files]

    def delivered(self) -> set[str]:
        """The ids of the steering messages in the conversation."""
        return {id_ for head in self.heads() if (id_ := message_id(head.sender))}

    def prompted(self) -> bool:
        """Whether the objective has been said."""
        return any(
            head.kind == "MessageEvent" and head.source == "user" and message_id(head.sender) is None
            for head in self.heads()
        )

    def _follow(self, event_id: str) -> None:
        name = f"event-{len(self._files):05d}-{event_id}.json"
        if (self._folder / name).exists():
            self._files.append(name)
            self._take_up()
        elif not self._ends_with(event_id):
            self._listed = False  # one before it was written without a word

    def _ends_with(self, event_id: str) -> bool:
        """Whether a listing was faster than the callback that tells of the event."""
        return any(name.endswith(f"-{event_id}.json") for name in self._files[-_RECENT:])

    def _list(self) -> None:
        """The files that are known stay: OpenHands neither renames nor removes one."""
        self._listed = True
        try:
            names = os.listdir(self._folder)  # noqa: PTH208 - a `Path` for each costs more than all the rest
        except FileNotFoundError:
            return
        known = len(self._files)
        matches = (match for match in map(_FILE.fullmatch, names) if match)
        self._ahead = {index: match[0] for match in matches if (index := int(match[1])) >= known}
        self._take_up()

    def _take_up(self) -> None:
        """What a listing found behind an index that was missing then."""
        while name := self._ahead.pop(len(self._files), None):
            self._files.append(name)

    def _body(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def _logged(self, index: int, name: str) -> LoggedEvent:
        body = self._body(name)
        head = msgspec.json.decode(body, type=EventHead)
        at = datetime.fromisoformat(head.timestamp)
        return LoggedEvent(
            seq=index + 1,
            event_id=head.id,
            kind=head.kind,
            at=at if at.tzinfo else at.replace(tzinfo=UTC),  # OpenHands writes local time; this process lives in UTC
            source=head.source,
            parent_id=head.parent_id,
            body=msgspec.Raw(body),
        )
