"""Output of agents in the stream `AGENT_LOGS`: one subject for each agent, appended by compare-and-set."""

import asyncio
import base64
import binascii
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final

import msgspec

from muster.agent_manager.fleet.domain.log_lines import OutputPosition
from muster.agent_manager.fleet.domain.log_records import expired, last_n, newest, printed, told
from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore, Stored
from muster.common.bus.streams import when_stored
from muster.common.contract import decode, encode, token
from muster.common.contracts.agent_logs import AgentOutput, LogLine
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
        position = OutputPosition(
            launch=frame.launch,
            offset=frame.next_offset,
            lines=last_n(frame),
            line_ends=frame.line_ends,
            ended=bool(frame.ended),
        )
        return AgentLogTail(stored.position, position)

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
        if (found := await self._after(agent_id, cursor, limit)) is not None:
            return *found, False
        found = await self._after(agent_id, BEGINNING, limit, read_before=True)
        assert found, "the beginning is always known"
        return *found, True

    async def _after(
        self, agent_id: str, cursor: AgentLogCursor, limit: int, *, read_before: bool = False
    ) -> tuple[list[LogLine], AgentLogCursor] | None:
        """Return the lines after a cursor and the next cursor, or None if the cursor is unknown."""
        lines, size, count, at, first = list[LogLine](), 0, 0, cursor, True
        async for stored in self._message_store.replay(
            STREAM, _subject(agent_id), after=max(0, cursor.stored - 1), batch=16
        ):
            frame = decode(stored.body, AgentOutput)
            if first and cursor == BEGINNING:
                lines += expired(stored.position, frame, at=stored.at, read_before=read_before)
            elif first and not cursor.is_in(stored):
                return None
            first = False
            is_new = stored.position > cursor.stored
            skip = 0 if is_new else cursor.taken
            taken = min(len(frame.lines) - skip, limit - count)
            if is_new or taken:
                lines += told(stored.position, frame, skip=skip, most=taken, at=stored.at)
                at = AgentLogCursor.behind(stored, skip + taken)
            count, size = count + taken, size + len(stored.body)
            if count == limit or size > MOST_BYTES:
                break
        return None if first and cursor != BEGINNING else (lines, at)

    async def last(self, agent_id: str, limit: int) -> tuple[list[LogLine], AgentLogCursor]:
        """Return the last `limit` lines of an agent's log, and the cursor after them."""
        if (tail := await self._message_store.tail(STREAM, _subject(agent_id))) is None:
            return [], BEGINNING
        reach = FIRST_REACH
        while True:
            lines, end, after = list[LogLine](), BEGINNING, max(0, tail.position - reach)
            async for stored in self._message_store.replay(STREAM, _subject(agent_id), after=after):
                frame = decode(stored.body, AgentOutput)
                if end == BEGINNING and after == 0:
                    lines += expired(stored.position, frame, at=stored.at, read_before=False)
                lines += told(stored.position, frame, skip=0, most=len(frame.lines), at=stored.at)
                lines = newest(lines, limit)
                end = AgentLogCursor.behind(stored, len(frame.lines))
            if printed(lines) >= limit or after == 0:
                return newest(lines, limit, MOST_BYTES), end
            reach *= 8

    def woken(self, agent_id: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """Return an event that is set whenever a frame of this agent's log is stored."""
        return self._bus.woken_by(when_stored(_subject(agent_id)))


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _subject(agent_id: str) -> str:
    return f"agent.{token(agent_id, 'agent_id')}.log"
