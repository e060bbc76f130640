"""A conversation on disk, for agents without a record of their own: one line per event, before anybody hears of it."""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from muster.agent.steering import message_id
from muster.common.contracts.sandbox_log import LoggedEvent


class JournalPosition(msgspec.Struct, frozen=True):
    """Where in its work the agent wrote an event: what a relaunch goes on from."""

    step: int
    part: int


class JournalLine(msgspec.Struct, omit_defaults=True):
    """One line of the file: OpenHands' event, and where in the work it was (steering messages are nowhere)."""

    event: msgspec.Raw
    position: JournalPosition | None = msgspec.field(default=None, name="place")


class EventEnvelope(msgspec.Struct):
    """What the log's envelope takes from an event."""

    id: str
    timestamp: datetime
    source: str
    kind: str
    parent_id: str | None = None


class EventJournal:
    """An append-only file of events. A torn last line is cut off: it was never announced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = _healed(path)
        self._file = path.open("ab")
        self.position = next((line.position for line in reversed(self._lines) if line.position), None)

    @property
    def last_id(self) -> str | None:
        """The event that the next one follows."""
        return msgspec.json.decode(self._lines[-1].event, type=EventEnvelope).id if self._lines else None

    def append(self, bodies: Sequence[dict[str, Any]], position: JournalPosition | None) -> None:
        """Returns once the events are on the disk, each the child of the one before, all with one fsync."""
        parent = self.last_id
        for body in bodies:
            if parent:
                body["parent_id"] = parent
            parent = body["id"]
        lines = [JournalLine(event=msgspec.Raw(msgspec.json.encode(body)), position=position) for body in bodies]
        self._file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._lines.extend(lines)
        self.position = position or self.position

    def delivered(self) -> set[str]:
        """The ids of the steering messages in the conversation."""
        return {id_ for body in self.bodies() if (id_ := message_id(body.get("sender")))}

    def bodies(self) -> list[dict[str, Any]]:
        """The whole conversation."""
        return [msgspec.json.decode(line.event, type=dict[str, Any]) for line in self._lines]

    def count(self) -> int:
        """How many events there are."""
        return len(self._lines)

    def read(self, start: int, limit: int) -> list[LoggedEvent]:
        """Events from an index on, as the log takes them."""
        return [_logged(index, line) for index, line in enumerate(self._lines[start : start + limit], start)]

    def close(self) -> None:
        """Lets go of the file."""
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


def _healed(path: Path) -> list[JournalLine]:
    body = path.read_bytes() if path.exists() else b""
    whole = body.rfind(b"\n") + 1
    if whole < len(body):
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    return [msgspec.json.decode(line, type=JournalLine) for line in body[:whole].splitlines()]
