"""The event journal: an append-only file with the conversation of an agent, one JSON line per event.

`append` returns after an fsync, and events are announced to the outbox only after that. So the gateway never has an
event that is missing on this disk. If the process dies during `append`, the file may end with complete lines that were
not announced. The next launch sends them. The file may also end with an incomplete line. The next `EventJournal`
deletes that line, because it was never announced.

Each line also contains the `position` in the agent's work at which the event was written. The next launch continues
after the last position.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from muster.agent.steering import message_id
from muster.common.contracts.sandbox_log import LoggedEvent


class JournalPosition(msgspec.Struct, frozen=True):
    """The step of the agent's work that wrote an event. The next launch continues after the last written step."""

    step: int
    """Index of the step of the work."""
    part: int
    """Number of the part within the step, from 0."""


class JournalLine(msgspec.Struct, omit_defaults=True):
    """One line of the journal: an event in OpenHands' format and its position (None for steering messages)."""

    event: msgspec.Raw
    position: JournalPosition | None = msgspec.field(default=None, name="place")


class EventEnvelope(msgspec.Struct):
    """The fields of an event that are copied into its `LoggedEvent`."""

    id: str
    timestamp: datetime
    source: str
    kind: str
    parent_id: str | None = None


class EventJournal:
    """The events of one agent, in memory and in an append-only file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = _read_whole_lines(path)
        self._file = path.open("ab")
        self.position = next((line.position for line in reversed(self._lines) if line.position), None)
        """Position of the last event that has one; None for an empty journal."""

    @property
    def last_id(self) -> str | None:
        """Return the id of the last event, which becomes the parent of the next one. None for an empty journal."""
        return msgspec.json.decode(self._lines[-1].event, type=EventEnvelope).id if self._lines else None

    def append(self, bodies: Sequence[dict[str, Any]], position: JournalPosition | None) -> None:
        """Append events, each the child of the previous one. Return when all are on disk, after one fsync."""
        parent = self.last_id
        for body in bodies:
            if parent:
                body["parent_id"] = parent
            parent = body["id"]
        lines = [JournalLine(event=msgspec.Raw(msgspec.json.encode(body)), position=position) for body in bodies]
        # One write and one fsync for all lines, because an fsync takes milliseconds and agents often write several
        # events.
        self._file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._lines.extend(lines)  # Only now can the outbox see the events, because it reads `_lines` and not the file.
        self.position = position or self.position

    def delivered(self) -> set[str]:
        """Return the ids of the steering messages in the conversation."""
        return {id_ for body in self.bodies() if (id_ := message_id(body.get("sender")))}

    def bodies(self) -> list[dict[str, Any]]:
        """Return the bodies of all events, in order."""
        return [msgspec.json.decode(line.event, type=dict[str, Any]) for line in self._lines]

    def count(self) -> int:
        """Return the number of events."""
        return len(self._lines)

    def read(self, start: int, limit: int) -> list[LoggedEvent]:
        """Return at most `limit` events from index `start` on, in the form that the sandbox log stores."""
        return [_logged(index, line) for index, line in enumerate(self._lines[start : start + limit], start)]

    def close(self) -> None:
        """Close the journal file."""
        self._file.close()


def _logged(index: int, line: JournalLine) -> LoggedEvent:
    head = msgspec.json.decode(line.event, type=EventEnvelope)
    return LoggedEvent(
        seq=index + 1,
        event_id=head.id,
        kind=head.kind,
        at=head.timestamp,
        source=head.source,
        parent_id=head.parent_id,
        body=line.event,
    )


def _read_whole_lines(path: Path) -> list[JournalLine]:
    """Return the lines of the file, after deleting an incomplete last line."""
    body = path.read_bytes() if path.exists() else b""
    whole = body.rfind(b"\n") + 1
    if whole < len(body):  # The next append must not continue an incomplete line.
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    return [msgspec.json.decode(line, type=JournalLine) for line in body[:whole].splitlines()]
