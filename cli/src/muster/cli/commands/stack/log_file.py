"""Reads the log file of one part: its last lines, and then each new line, also after the file was replaced.

The next start of a stack renames `PART.log` to `PART.log.1` and writes a new `PART.log`. A follower keeps the old file
open, reads it to its end, and then opens the new file. A file that became shorter is read from its beginning.
"""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from muster.cli.commands.stack.log_entry import LogEntry, log_entry

_BLOCK_BYTES = 64 << 10
_LONGEST_LINE_BYTES = 1 << 20
"""A longer line is split, so that a file without line ends cannot fill the memory."""


class LogFile:
    """The log of one part in the folder of the logs. The file may not exist yet."""

    def __init__(self, part: str, folder: Path) -> None:
        self._part, self._path = part, folder / f"{part}.log"
        self._file: BinaryIO | None = None
        self._rest = b""
        """Bytes after the last line end, which are the beginning of the next line."""

    def last_entries(self, most: int | None, since: datetime | None) -> list[LogEntry]:
        """Return the last entries, oldest first: at most `most` of them, and none before `since`.

        Continues in the file of the stack's previous run. The next call of `new_entries` returns the entries after.
        """
        self._reopen()
        end = self._complete_end()
        found: list[LogEntry] = []
        undated = 0
        for line in self._lines_backwards(end):
            if most is not None and len(found) == most:
                break
            entry = log_entry(self._part, line.decode(errors="replace"))
            if since and entry.at and entry.at < since:
                break
            undated = 0 if entry.at else undated + 1
            found.append(entry)
        if self._file:
            self._file.seek(end)
        if since:  # Lines without a time at the beginning belong to an entry before `since`.
            found = found[: len(found) - undated]
        return found[::-1]

    def new_entries(self) -> list[LogEntry]:
        """Return the entries that were written since the last call."""
        lines: list[bytes] = []
        while True:
            lines += self._read_lines()
            if not self._reopen():
                return [log_entry(self._part, line.decode(errors="replace")) for line in lines if line]

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _lines_backwards(self, end: int) -> Iterator[bytes]:
        """Yield the lines up to the position `end`, and then those of the previous run's file, last line first."""
        if self._file:
            yield from _backwards(self._file, end)
        yield from self._previous()

    def _complete_end(self) -> int:
        """Return the position after the last line end of the file; 0 if there is no file."""
        if self._file is None:
            return 0
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, end - _LONGEST_LINE_BYTES))
        return end - len(self._file.read(_LONGEST_LINE_BYTES).rpartition(b"\n")[2])

    def _previous(self) -> Iterator[bytes]:
        try:
            with self._path.with_suffix(".log.1").open("rb") as file:
                yield from _backwards(file, file.seek(0, os.SEEK_END))
        except FileNotFoundError:
            return

    def _read_lines(self) -> list[bytes]:
        if self._file is None:
            return []
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
            self._rest = b""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        if len(self._rest) > _LONGEST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        return lines

    def _reopen(self) -> bool:
        """Open the file if it is not open or was replaced by another file; return whether a file was opened."""
        try:
            newest = self._path.stat()
        except FileNotFoundError:
            return False
        if self._file:
            if os.path.samestat(newest, os.fstat(self._file.fileno())):
                return False
            self._file.close()
        self._file, self._rest = self._path.open("rb"), b""
        return True


def _backwards(file: BinaryIO, end: int) -> Iterator[bytes]:
    """Yield the lines of a file up to the position `end`, last line first, without empty lines."""
    rest = b""
    while end > 0:
        begin = max(0, end - _BLOCK_BYTES)
        file.seek(begin)
        rest, *lines = (file.read(end - begin) + rest).split(b"\n")
        yield from (line for line in reversed(lines) if line)
        end = begin
    if rest:
        yield rest
