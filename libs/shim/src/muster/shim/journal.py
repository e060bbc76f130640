"""What outlives a shim: which keys it had, and how they ended, so that the same key stays the same process.

One JSON line per change. Nothing is synced: what must survive is the shim's death, not the machine's.
"""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from muster.shim.protocol import ProcessRecord


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line: a record as it now is, a key that is forgotten, or the highest exit number given."""

    record: ProcessRecord | None = None
    removed: str | None = None
    exits: int | None = None


class ProcessJournal:
    """Append-only while open, and rewritten short by the next shim."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.exits = 0
        self.records: dict[str, ProcessRecord] = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                self._take(msgspec.json.decode(line, type=JournalEntry))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # the line it died in
        short = path.with_suffix(".new")
        kept = [JournalEntry(exits=self.exits), *(JournalEntry(record=record) for record in self.records.values())]
        short.write_bytes(b"".join(msgspec.json.encode(entry) + b"\n" for entry in kept))
        short.replace(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    def write(self, entry: JournalEntry) -> None:
        """Append one line."""
        with suppress(OSError):  # a full disk costs the next shim its memory, not this one its workers
            os.write(self._descriptor, msgspec.json.encode(entry) + b"\n")

    def close(self) -> None:
        """No more is coming."""
        os.close(self._descriptor)

    def _take(self, entry: JournalEntry) -> None:
        if entry.record:
            self.records[entry.record.key] = entry.record
            self.exits = max(self.exits, entry.record.exit_no or 0)
        if entry.removed:
            self.records.pop(entry.removed, None)
        self.exits = max(self.exits, entry.exits or 0)
