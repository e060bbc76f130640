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
from muster.common.bus.message_store import MessageStore, Stored
from muster.common.bus.streams import when_stored
from muster.common.contract import decode, encode, token
from muster.common.contracts.agent_logs import AgentOutput, LoggedLine, LogLine
from muster.common.faults import InvalidMessage

STREAM: Final = "AGENT_LOGS"
FIRST_REACH: Final = 256
MOST_BYTES: Final = 2 << 20
"""The largest page of a log in bytes: as much as one reply can carry, with a margin."""


class AgentLogTail(msgspec.Struct, frozen=True):
    """The end of an agent's log: the stream position of its last frame, and the stored part of the output."""

    stored: int
    position: OutputPosition


class AgentLogCursor(msgspec.Struct, frozen=True, array_like=True):
    """A position in an agent's log: after `taken` lines of the frame at stream position `stored`.

    `at_ms` is the time when the frame was stored. This time detects a stream that was created again and counts
    positions from 1 again.
    """

    stored: int
    taken: int
    at_ms: int = 0

    @classmethod
    def behind(cls, stored: Stored, taken: int) -> "AgentLogCursor":
        """Return the cursor after the first `taken` lines of a stored frame."""
        return cls(stored.position, taken, _ms(stored.at))

    def is_in(self, stored: Stored) -> bool:
        """Return whether this cursor points into the given stored frame."""
        return self.stored == stored.position and self.at_ms in (0, _ms(stored.at))

    def written(self) -> str:
        """Return the cursor as a text that is opaque to clients."""
        text = f"{self.stored}.{self.taken}" + (f".{self.at_ms}" if self.at_ms else "")
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> "AgentLogCursor":
        """Parse a cursor from a text that `written` returned. Raises `InvalidMessage` for another text."""
        try:
            parts = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii").split(".")
            cursor = cls(*map(int, parts))
        except (ValueError, TypeError, binascii.Error):
            cursor = cls(-1, 0)
        if not all(0 <= part < 1 << 62 for part in (cursor.stored, cursor.taken, cursor.at_ms)):
            raise InvalidMessage("cursor is not valid; pass the next_cursor of a page of this log", field="$.cursor")
        return cursor


BEGINNING: Final = AgentLogCursor(0, 0)


class AgentLogs:
    """Reads and appends the logs of all agents."""

    def __init__(self, bus: Bus, message_store: MessageStore) -> None:
        self._bus, self._message_store = bus, message_store

    async def tail(self, agent_id: str) -> AgentLogTail | None:
        """Return the end of an agent's log; None if the log is empty or all its frames have expired."""
        if (stored := await self._message_store.tail(STREAM, _subject(agent_id))) is None:
            return None
        frame = decode(stored.body, AgentOutput)
        lines = frame.lines[-1].n if frame.lines else 0
        return AgentLogTail(stored.position, OutputPosition(launch=frame.launch, offset=frame.next_offset, lines=lines))

    async def append(self, frame: AgentOutput, *, last: int) -> int:
        """Append a frame to an agent's log if `last` is the stream position of the log's last frame.

        Raises `RevisionConflict` if it is not. After `TimedOut` or `Unavailable`, call `tail` to learn the result.
        """
        return await self._message_store.append(frame.subject, encode(frame), last=last)

    async def after(
        self, agent_id: str, cursor: AgentLogCursor, limit: int
    ) -> tuple[list[LogLine], AgentLogCursor, bool]:
        """Return the lines after a cursor, the next cursor, and True if the cursor was unknown.

        For an unknown cursor, return the oldest lines in the log. Frames expire in order, so no line is read twice.
        """
        lines, size, known = list[LogLine](), 0, cursor.stored == 0
        async for stored in self._message_store.replay(
            STREAM, _subject(agent_id), after=max(0, cursor.stored - 1), batch=16
        ):
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
        """Return the last `limit` lines of an agent's log, and the cursor after them."""
        if (tail := await self._message_store.tail(STREAM, _subject(agent_id))) is None:
            return [], BEGINNING
        reach = FIRST_REACH
        while True:
            lines, end, after = list[LogLine](), BEGINNING, max(0, tail.position - reach)
            async for stored in self._message_store.replay(STREAM, _subject(agent_id), after=after):
                frame = decode(stored.body, AgentOutput)
                lines = (lines + _told(stored.position, frame.launch, frame.lines))[-limit:]
                end = AgentLogCursor.behind(stored, len(frame.lines))
            if len(lines) >= limit or after == 0:
                return _newest(lines), end
            reach *= 8

    def woken(self, agent_id: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """Return an event that is set whenever a frame of this agent's log is stored."""
        return self._bus.woken_by(when_stored(_subject(agent_id)))


def _newest(lines: list[LogLine]) -> list[LogLine]:
    """Return the last of these output lines, as many as fit into one reply."""
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
