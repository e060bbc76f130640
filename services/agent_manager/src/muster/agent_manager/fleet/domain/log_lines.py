"""Splits the output of a process into lines."""

from datetime import datetime
from typing import Final

import msgspec

from muster.common.contracts.agent_logs import LoggedLine

LONGEST_LINE: Final = 16 << 10
"""In bytes. A longer line continues in the next one."""
_CONTINUATION, _LEAD = 0xC0, 0x80
_LONGEST_CHARACTER: Final = 4


class OutputPosition(msgspec.Struct, frozen=True, kw_only=True):
    """How far the output of a launch is stored: bytes, lines, and bytes dropped since the last stored line."""

    launch: int = 0
    offset: int = 0
    lines: int = 0
    dropped: int = 0


def cut(body: bytes, *, ended: bool) -> tuple[list[bytes], int]:
    """Return the lines of `body` without their ends, and how many bytes they take; `ended`: the rest is a line too."""
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
    """Return a line as it is stored: bytes that are not UTF-8 and the character NUL are replaced."""
    return [LoggedLine(n=after + n, at=at, text=_text(line)) for n, line in enumerate(lines, 1)]


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _whole(body: bytes, end: int) -> int:
    """Return `end`, or up to three bytes less if it would cut a character in two."""
    for back in range(_LONGEST_CHARACTER):
        if body[end - back] & _CONTINUATION != _LEAD:
            return end - back
    return end
