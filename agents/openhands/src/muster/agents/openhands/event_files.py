"""Reads OpenHands' event files, which are the outbox of the worker: there is no second copy.

A file is named `event-<index>-<event id>.json`, so an index alone does not name it. The SDK's callback reports the id
of each event when its file is on disk, so finding the next file takes one `stat`, however long the conversation is.
The folder is listed at the start, on request (`list_again`), and when a reported event is not the next one.
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
"""Number of last events that a listing may have found before their callback: written by one thread during a listing."""


class EventHead(msgspec.Struct):
    """The fields of an event that Muster reads. The rest is not parsed, so that new kinds of events cause no errors."""

    id: str
    timestamp: str
    source: str
    kind: str
    parent_id: str | None = None
    sender: str | None = None


class EventFiles:
    """The events of one conversation in the order of their index. `seq` is the index plus one. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # the heartbeat counts events while the outbox reads them
        self._files: list[str] = []
        self._ahead: dict[int, str] = {}
        self._reported: deque[str] = deque()
        self._listed = False

    def written(self, event_id: str) -> None:
        """Report an event whose file was just written."""
        self._reported.append(event_id)

    def list_again(self) -> None:
        """Let the next `count` list the folder, to find events that were not reported by `written`."""
        self._listed = False

    def count(self) -> int:
        """Return the number of event files before the first missing index."""
        with self._lock:
            while self._reported:
                self._append_next(self._reported.popleft())
            if not self._listed:
                self._list()
            return len(self._files)

    def read(self, start: int, limit: int) -> list[LoggedEvent]:
        """Return at most `limit` events from index `start` on, in the form that the sandbox log stores."""
        if start + limit > len(self._files):
            self.count()
        return [self._logged(index, name) for index, name in enumerate(self._files[start : start + limit], start)]

    def heads(self) -> list[EventHead]:
        """Return the heads of all events."""
        self.list_again()
        self.count()
        return [msgspec.json.decode(self._body(name), type=EventHead) for name in self._files]

    def delivered(self) -> set[str]:
        """Return the ids of the steering messages in the conversation."""
        return {id_ for head in self.heads() if (id_ := message_id(head.sender))}

    def has_objective(self) -> bool:
        """Return whether the conversation holds the objective."""
        return any(
            head.kind == "MessageEvent" and head.source == "user" and message_id(head.sender) is None
            for head in self.heads()
        )

    def _append_next(self, event_id: str) -> None:
        name = f"event-{len(self._files):05d}-{event_id}.json"
        if (self._folder / name).exists():
            self._files.append(name)
            self._append_found()
        elif not self._ends_with(event_id):
            self._listed = False  # an event before this one was written without a report

    def _ends_with(self, event_id: str) -> bool:
        """Return whether a listing has found this event before its callback reported it."""
        return any(name.endswith(f"-{event_id}.json") for name in self._files[-_RECENT:])

    def _list(self) -> None:
        """List the folder and append the new files. Known files stay: OpenHands never renames or removes one."""
        self._listed = True
        try:
            names = os.listdir(self._folder)  # noqa: PTH208 - creating a `Path` per file takes most of the time
        except FileNotFoundError:
            return
        known = len(self._files)
        matches = (match for match in map(_FILE.fullmatch, names) if match)
        self._ahead = {index: match[0] for match in matches if (index := int(match[1])) >= known}
        self._append_found()

    def _append_found(self) -> None:
        """Append files that a listing found after an index that was missing then."""
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
            at=at if at.tzinfo else at.replace(tzinfo=UTC),  # OpenHands writes local time, which is UTC in this process
            source=head.source,
            parent_id=head.parent_id,
            body=msgspec.Raw(body),
        )
