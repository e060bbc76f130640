"""Output of agents in the stream `AGENT_LOGS`: one subject for each agent, appended by compare-and-set."""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final

import msgspec

from muster.agent_manager.fleet.domain.log_lines import OutputPosition
from muster.common.bus.connection import Bus
from muster.common.bus.journal import Journal, Stored
from muster.common.bus.streams import when_stored
from muster.common.contract import decode, encode, token
from muster.common.contracts.agent_logs import AgentOutput, LoggedLine, LogLine
from muster.common.faults import InvalidMessage

STREAM: Final = "AGENT_LOGS"
FIRST_REACH: Final = 256
MOST_BYTES: Final = 2 << 20
"""In bytes, of one page: what a reply can carry, with a margin."""


class AgentLogTail(msgspec.Struct, frozen=True):
    """The end of an agent's log: the position of its last frame, and how far the output is in it."""

    stored: int
    position: OutputPosition


class AgentLogCursor(msgspec.Struct, frozen=True, array_like=True):
    """A position in a log: after `taken` lines of the frame at stream position `stored`.

    `at_ms` is when the frame was stored: a stream that was created again counts from 1 again, but no time comes twice.
    """

    stored: int
    taken: int
    at_ms: int = 0

    @classmethod
    def behind(cls, stored: Stored, taken: int) -> "AgentLogCursor":
        """Return the cursor after `taken` lines of a stored frame."""
        return cls(stored.position, taken, _ms(stored.at))

    def is_in(self, stored: Stored) -> bool:
        """Return whether this cursor points into that frame."""
        return self.stored == stored.position and self.at_ms in (0, _ms(stored.at))

    def written(self) -> str:
        """Return the cursor as an opaque text."""
        text = f"{self.stored}.{self.taken}" + (f".{self.at_ms}" if self.at_ms else "")
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> "AgentLogCursor":
        """Return the cursor that `written` returned as a text. Raises `InvalidMessage`."""
        try:
            parts = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii").split(".")
            cursor = cls(*map(int, parts))
        except (ValueError, TypeError, binascii.Error):
            cursor = cls(-1, 0)
        if not all(0 <= part < 1 << 62 for part in (cursor.stored, cursor.taken, cursor.at_ms)):
            raise InvalidMessage("cursor is not one that a page of this log gave out", field="$.cursor")
        return cursor


BEGINNING: Final = AgentLogCursor(0, 0)


class AgentLogs:
    """The logs of all agents."""

    def __init__(self, bus: Bus, journal: Journal) -> None:
        self._bus, self._journal = bus, journal

    async def tail(self, agent_id: str) -> AgentLogTail | None:
        """Return the end of a log; None if it is empty or all of it has expired."""
        if (stored := await self._journal.tail(STREAM, _subject(agent_id))) is None:
            return None
        frame = decode(stored.body, AgentOutput)
        lines = frame.lines[-1].n if frame.lines else 0
        return AgentLogTail(stored.position, OutputPosition(launch=frame.launch, offset=frame.next_offset, lines=lines))

    async def append(self, frame: AgentOutput, *, last: int) -> int:
        """Store a frame if `last` is the last one.

        Raises `RevisionConflict`; after `TimedOut` or `Unavailable` read the tail.
        """
        return await self._journal.append(frame.subject, encode(frame), last=last)

    async def after(
        self, agent_id: str, cursor: AgentLogCursor, limit: int
    ) -> tuple[list[LogLine], AgentLogCursor, bool]:
        """Return the lines after a cursor, the next cursor, and whether the cursor was unknown.

        After an unknown cursor come the first lines that are kept. Frames expire in order, so nothing is read twice.
        """
        lines, size, known = list[LogLine](), 0, cursor.stored == 0
        async for stored in self._journal.replay(STREAM, _subject(agent_id), after=max(0, cursor.stored - 1), batch=16):
            if not known and not cursor.is_in(stored):
                break
            known = True
            frame = decode(stored.body, AgentOutput)
            skip = cursor.taken if stored.position == cursor.stored else 0
            some = frame.lines[skip : skip + limit - len(lines)]
            lines += _told(stored.position, frame.launch, some)
            if some or stored.position > cursor.stored:
                cursor = AgentLogCursor.behind(stored, skip + len(some))
            size += len(stored.body)
            if len(lines) == limit or size > MOST_BYTES:
                break
        if not known:
            lines, cursor, _ = await self.after(agent_id, BEGINNING, limit)
            return lines, cursor, True
        return lines, cursor, False

    async def last(self, agent_id: str, limit: int) -> tuple[list[LogLine], AgentLogCursor]:
        """Return the last lines and the cursor after them. Reads from further back until it has enough of them."""
        if (tail := await self._journal.tail(STREAM, _subject(agent_id))) is None:
            return [], BEGINNING
        reach = FIRST_REACH
        while True:
            lines, end, after = list[LogLine](), BEGINNING, max(0, tail.position - reach)
            async for stored in self._journal.replay(STREAM, _subject(agent_id), after=after):
                frame = decode(stored.body, AgentOutput)
                lines = (lines + _told(stored.position, frame.launch, frame.lines))[-limit:]
                end = AgentLogCursor.behind(stored, len(frame.lines))
            if len(lines) >= limit or after == 0:
                return _newest(lines), end
            reach *= 8

    def woken(self, agent_id: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """Return an event that is set whenever a frame of this agent is stored."""
        return self._bus.woken_by(when_stored(_subject(agent_id)))


def _newest(lines: list[LogLine]) -> list[LogLine]:
    """Return as many of the last lines as one reply can carry."""
    size = 0
    for back, line in enumerate(reversed(lines)):
        size += len(line.text.encode(errors="replace"))
        if size > MOST_BYTES:
            return lines[len(lines) - back :]
    return lines


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _subject(agent_id: str) -> str:
    return f"agent.{token(agent_id, 'agent_id')}.log"


def _told(position: int, launch: int, lines: Sequence[LoggedLine]) -> list[LogLine]:
    return [LogLine(position=position, n=line.n, launch=launch, at=line.at, text=line.text) for line in lines]
