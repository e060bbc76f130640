"""Reads the event files that OpenHands writes. They are also the worker's outbox: Muster makes no second copy.

A file is named `event-<index>-<event id>.json`, so the index alone does not give the name. The SDK's callback reports
the id of each event when the event's file is on disk. So one `stat` finds the next file, however long the conversation
is. The folder is listed only at the start, on request (`list_again`), and if a reported event is not the next one.
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
"""Number of newest events that are searched for an event that a listing found before the callback reported it."""


def conversation_folder(state_dir: Path) -> Path:
    """Return the folder in which OpenHands saves its conversations."""
    return state_dir / "conversations"


class EventHead(msgspec.Struct):
    """The fields of an event that Muster reads. Other fields are not parsed, so new kinds of events cause no errors."""

    id: str
    timestamp: str
    source: str
    kind: str
    parent_id: str | None = None
    sender: str | None = None


class EventFiles:
    """The events of one conversation in the order of their index; an event's `seq` is index + 1. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # The lock is needed because the heartbeat counts the events in one thread and the outbox reads them in another.
        self._lock = threading.Lock()
        self._files: list[str] = []
        self._ahead: dict[int, str] = {}
        self._reported: deque[str] = deque()
        self._listed = False

    def written(self, event_id: str) -> None:
        """Record that the SDK has written the file of this event."""
        self._reported.append(event_id)

    def list_again(self) -> None:
        """Make the next call of `count` list the folder, to find event files that the SDK has not reported."""
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
        """Return at most `limit` events from index `start` on, as the sandbox log stores them."""
        if start + limit > len(self._files):
            self.count()
        return [self._logged(index, name) for index, name in enumerate(self._files[start : start + limit], start)]

    def heads(self) -> list[EventHead]:
        """Read all event files and return the parsed fields (`EventHead`) of each event."""
        self.list_again()
        self.count()
        return [msgspec.json.decode(self._body(name), type=EventHead) for name in self._files]

    def delivered(self) -> set[str]:
        """Return the ids of the steering messages that the conversation contains."""
        return {id_ for head in self.heads() if (id_ := message_id(head.sender))}

    def has_objective(self) -> bool:
        """Return whether the conversation contains the task's objective as a user message."""
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
            self._listed = False  # The SDK has written an earlier event without reporting its id.

    def _ends_with(self, event_id: str) -> bool:
        """Return whether the file of this event is known already, because a listing of the folder has found it."""
        return any(name.endswith(f"-{event_id}.json") for name in self._files[-_RECENT:])

    def _list(self) -> None:
        """List the folder and append the new files. OpenHands never renames or removes a file, so known files stay."""
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
        """Append the next files of the last listing, up to the first index without a file."""
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
            # OpenHands writes local times without a zone. This process runs with TZ=UTC, so these times are UTC.
            at=at if at.tzinfo else at.replace(tzinfo=UTC),
            source=head.source,
            parent_id=head.parent_id,
            body=msgspec.Raw(body),
        )
