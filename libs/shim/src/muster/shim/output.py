"""The stored output of a worker: the last part of its stdout and stderr, in two append-only files.

When the file has 4 MiB, it is renamed to `<key>.out.1`, which replaces the older part, and a new file is begun. Offsets
count from the worker's first byte, so a reader's offset stays valid when the beginning of the output is deleted.
"""

import os
from contextlib import suppress
from pathlib import Path

from muster.shim.protocol import OutputPage

SEGMENT_BYTES = 4 << 20
"""Size of a segment in bytes. Between one and two segments of the end are kept."""


class OutputFile:
    """The output of one worker: the older segment `<key>.out.1`, followed by `<key>.out`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._previous = path.with_name(f"{path.name}.1")
        self._descriptor: int | None = None
        older = self._previous.stat().st_size if self._previous.exists() else 0
        size = path.stat().st_size if path.exists() else 0
        self._kept_from, self._segment_from, self._end = 0, older, older + size
        self._line_ends = [0, 0, 0] if not self._end else None
        """The line ends before `_kept_from`, `_segment_from` and `_end`; None (unknown) after a restart of the shim."""

    def append(self, piece: bytes) -> None:
        """Append a piece of output. Replace the older segment if the current one is full. Errors are ignored."""
        with suppress(OSError):  # If the disk is full, the output is lost, but the worker must continue to run.
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            written = os.write(self._descriptor, piece)
            self._end += written
            if self._line_ends:
                self._line_ends[2] += piece.count(b"\n", 0, written)
            if self._end - self._segment_from >= SEGMENT_BYTES:
                self.close()
                self._path.replace(self._previous)
                self._kept_from, self._segment_from = self._segment_from, self._end
                self._line_ends = self._line_ends and [self._line_ends[1], self._line_ends[2], self._line_ends[2]]

    def page(self, offset: int, limit: int) -> OutputPage:
        """Return up to `limit` bytes of output, from `offset` or the oldest stored byte on.

        A negative `offset` counts from the end of the output.
        """
        start = min(max(offset if offset >= 0 else self._end + offset, self._kept_from), self._end)
        body = b""
        if start < self._segment_from:
            body = _piece(self._previous, start - self._kept_from, limit)
        at = start + len(body)
        if at >= self._segment_from and len(body) < limit:
            body += _piece(self._path, at - self._segment_from, limit - len(body))
        return OutputPage(body=body, next_offset=start + len(body), lines_before=self._lines_before(start, body))

    def _lines_before(self, start: int, body: bytes) -> int:
        """Return the number of line ends before `start` if it is known without reading more output, or -1."""
        if self._line_ends and start == self._kept_from:
            return self._line_ends[0]
        if self._line_ends and start + len(body) == self._end:
            return self._line_ends[2] - body.count(b"\n")
        return -1

    def close(self) -> None:
        """Close the output file. A later `append` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """Delete both segments of the output."""
        self.close()
        self._path.unlink(missing_ok=True)
        self._previous.unlink(missing_ok=True)


def _piece(path: Path, offset: int, limit: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(limit)
