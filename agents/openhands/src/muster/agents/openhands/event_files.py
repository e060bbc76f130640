"""OpenHands' own event files, read as they lie on the disk: they are the outbox, so there is no second copy to lose."""

import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from muster.agent.steering import message_id
from muster.common.contracts.sandbox_log import LoggedEvent

_FILE = re.compile(r"event-(\d{5,})-[0-9a-fA-F-]{8,}\.json")


class Head(msgspec.Struct):
    """What Muster reads of an event; all else stays raw, so that a new kind is never in the way."""

    id: str
    timestamp: str
    source: str
    kind: str
    parent_id: str | None = None
    sender: str | None = None


class EventFiles:
    """The events of one conversation, in the order of their index; `seq` is the index plus one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[str] = []

    def count(self) -> int:
        """How many lie there without a hole before them."""
        names = {int(match[1]): name for name in self._names() if (match := _FILE.fullmatch(name))}
        files: list[str] = []
        while name := names.get(len(files)):
            files.append(name)
        self._files = files
        return len(files)

    def read(self, start: int, limit: int) -> list[LoggedEvent]:
        """Events from an index on, as the log takes them."""
        if start + limit > len(self._files):
            self.count()
        return [self._logged(index, name) for index, name in enumerate(self._files[start : start + limit], start)]

    def heads(self) -> list[Head]:
        """All events, without what they carry."""
        self.count()
        return [msgspec.json.decode(self._body(name), type=Head) for name in self._files]

    def delivered(self) -> set[str]:
        """The ids of the steering messages in the conversation."""
        return {id_ for head in self.heads() if (id_ := message_id(head.sender))}

    def prompted(self) -> bool:
        """Whether the objective has been said."""
        return any(
            head.kind == "MessageEvent" and head.source == "user" and message_id(head.sender) is None
            for head in self.heads()
        )

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []

    def _body(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def _logged(self, index: int, name: str) -> LoggedEvent:
        body = self._body(name)
        head = msgspec.json.decode(body, type=Head)
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
