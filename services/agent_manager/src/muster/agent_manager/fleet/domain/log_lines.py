"""Splits the output of an agent's process into lines."""

from datetime import datetime
from typing import Final

import msgspec

from muster.common.contracts.agent_logs import LoggedLine

LONGEST_LINE: Final = 16 << 10
"""The longest line in bytes. The rest of a longer line becomes the next line."""
_CONTINUATION, _LEAD = 0xC0, 0x80
_LONGEST_CHARACTER: Final = 4


class OutputPosition(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a launch's output is stored: bytes, lines, and bytes dropped since the last stored line.

    `line_ends` is the number of line ends in the first `offset` bytes, or -1 if it is unknown. The numbers of lines and
    of line ends differ after dropped output, and after a line that was stored as several lines. `ended` means that the
    log contains the end of the launch.
    """

    launch: int = 0
    offset: int = 0
    lines: int = 0
    dropped: int = 0
    dropped_lines: int = 0
    line_ends: int = 0
    ended: bool = False

    def skipped_to(self, offset: int, line_ends: int) -> "OutputPosition":
        """Return the position at a later `offset`, before which there are `line_ends` line ends (-1: unknown)."""
        lines = line_ends - self.line_ends if min(line_ends, self.line_ends) >= 0 else 0
        return msgspec.structs.replace(
            self,
            offset=offset,
            dropped=self.dropped + offset - self.offset,
            dropped_lines=self.dropped_lines + lines,
            line_ends=line_ends,
        )

    def stored(self, body: bytes, lines: int) -> "OutputPosition":
        """Return the position after output that was stored as `lines` lines."""
        line_ends = self.line_ends + body.count(b"\n") if self.line_ends >= 0 else -1
        return msgspec.structs.replace(
            self,
            offset=self.offset + len(body),
            lines=self.lines + lines,
            dropped=0,
            dropped_lines=0,
            line_ends=line_ends,
        )


def cut(body: bytes, *, ended: bool) -> tuple[list[bytes], int]:
    """Return the lines of `body`, and their size in bytes. An incomplete last line counts only if `ended`."""
    lines = list[bytes]()
    start = 0
    while start < len(body):
        end = body.find(b"\n", start, start + LONGEST_LINE + 1)
        if end >= 0:
            lines.append(body[start:end])
            start = end + 1
        elif len(body) - start > LONGEST_LINE:
            end = _whole(body, start + LONGEST_LINE)
            lines.append(body[start:end])
            start = end
        elif ended:
            lines.append(body[start:])
            start = len(body)
        else:
            break
    return lines, start


def numbered(lines: list[bytes], after: int, at: datetime) -> list[LoggedLine]:
    """Return the lines, numbered from `after` + 1. NUL characters and invalid UTF-8 are replaced."""
    return [LoggedLine(n=after + n, at=at, text=_text(line)) for n, line in enumerate(lines, 1)]


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _whole(body: bytes, end: int) -> int:
    """Return `end`, or up to three bytes less if `end` is inside a UTF-8 character."""
    for back in range(_LONGEST_CHARACTER):
        if body[end - back] & _CONTINUATION != _LEAD:
            return end - back
    return end
