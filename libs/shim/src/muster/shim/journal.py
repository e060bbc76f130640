"""The shim's journal `records.jsonl`: the keys and exits of all workers, which must survive a crash of the shim.

After a restart of the shim, a key still names the same worker. Each change is one JSON line, appended with one `write`.
There is no fsync, because a crash of the machine ends all workers anyway. The next shim skips an incomplete line, and
replaces the file by a new one with one line per known worker.
"""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from muster.shim.protocol import ProcessRecord


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the journal: a new or changed record, a removed key, or the highest exit number so far."""

    record: ProcessRecord | None = None
    removed: str | None = None
    exits: int | None = None


class ProcessJournal:
    """The journal of a state directory.

    `records` has the last record of each worker, by key. `exits` is the highest exit number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.exits = 0
        self.records: dict[str, ProcessRecord] = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                self._take(msgspec.json.decode(line, type=JournalEntry))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # The shim crashed before the line was complete.
        short = path.with_suffix(".new")
        kept = [JournalEntry(exits=self.exits), *(JournalEntry(record=record) for record in self.records.values())]
        short.write_bytes(b"".join(msgspec.json.encode(entry) + b"\n" for entry in kept))
        short.replace(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    def write(self, entry: JournalEntry) -> None:
        """Append one line to the journal. Errors are ignored."""
        # If the disk is full, the next shim misses this change, but the workers of this shim continue to run.
        with suppress(OSError):
            os.write(self._descriptor, msgspec.json.encode(entry) + b"\n")

    def close(self) -> None:
        """Close the journal file."""
        os.close(self._descriptor)

    def _take(self, entry: JournalEntry) -> None:
        if entry.record:
            self.records[entry.record.key] = entry.record
            self.exits = max(self.exits, entry.record.exit_no or 0)
        if entry.removed:
            self.records.pop(entry.removed, None)
        self.exits = max(self.exits, entry.exits or 0)
