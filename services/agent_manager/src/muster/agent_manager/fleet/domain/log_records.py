"""The records of an agent's log that its process did not print: where lines are missing, and how a launch ended."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from muster.common.contracts.agent_logs import AgentOutput, LogLine

OVER_RATE: Final = "over 128 KiB/s"
EXPIRED: Final = "over the age or size limit of the log"


def told(position: int, frame: AgentOutput, *, skip: int, most: int, at: datetime) -> list[LogLine]:
    """Return the lines of a frame as clients receive them: `most` lines after `skip` lines, and the frame's records.

    `position` and `at` are those of the stored frame. The record of dropped output precedes the frame's first line.
    """
    lines = [] if skip else _dropped(position, frame, at)
    for line in frame.lines[skip : skip + most]:
        lines.append(LogLine(position=position, n=line.n, launch=frame.launch, at=line.at, text=line.text))
    if frame.ended and not skip:
        text = f"launch {frame.launch} ended: {frame.ended}"
        lines.append(LogLine(position=position, n=0, launch=frame.launch, at=at, text=text, kind="ended"))
    return lines


def expired(position: int, frame: AgentOutput, *, at: datetime, read_before: bool) -> list[LogLine]:
    """Return the record of lines before the oldest stored frame that are no longer stored, if there were any.

    If a reader had read some of these lines (`read_before`), the number of lines that it has missed is unknown.
    """
    count = (frame.lines[0].n if frame.lines else frame.last_n + 1) - 1
    if not count and not read_before:
        return []
    text = "earlier lines are no longer stored" if read_before else f"{count:,} lines dropped ({EXPIRED})"
    missing = 0 if read_before else count
    return [
        LogLine(position=position, n=0, launch=frame.launch, at=at, text=text, kind="dropped", dropped_lines=missing)
    ]


def last_n(frame: AgentOutput) -> int:
    """Return the number of the last line of the launch up to and including this frame."""
    return frame.lines[-1].n if frame.lines else frame.last_n


def printed(lines: Sequence[LogLine]) -> int:
    """Return how many of these lines the agent's process has printed."""
    return sum(line.kind == "output" for line in lines)


def newest(lines: list[LogLine], most: int, most_bytes: float = math.inf) -> list[LogLine]:
    """Return the last of these lines: at most `most` printed lines and their records, and at most `most_bytes`."""
    count = size = 0
    for back, line in enumerate(reversed(lines)):
        size += len(line.text.encode(errors="replace"))
        count += line.kind == "output"
        if count > most or size > most_bytes:
            return lines[len(lines) - back :]
    return lines


def _dropped(position: int, frame: AgentOutput, at: datetime) -> list[LogLine]:
    if not frame.dropped:
        return []
    count = f"{frame.dropped_lines:,} lines" if frame.dropped_lines else f"{frame.dropped:,} bytes"
    return [
        LogLine(
            position=position,
            n=0,
            launch=frame.launch,
            at=frame.lines[0].at if frame.lines else at,
            text=f"{count} dropped ({OVER_RATE})",
            kind="dropped",
            dropped_lines=frame.dropped_lines,
            dropped_bytes=frame.dropped,
        )
    ]
