"""A task's feed: its logs are replayed side by side from a cursor, then followed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AsyncExitStack, suppress

import structlog

from muster.common.bus.connection import Bus, Incoming
from muster.common.bus.journal import Journal, Stored
from muster.common.bus.streams import StreamIdentity, stream_state, when_stored
from muster.common.contract import decode, token
from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.sandbox_log import FrameHead, log_stream, log_subject, partition
from muster.common.contracts.tasks import TaskChanged
from muster.common.faults import Fault, InvalidMessage, TimedOut, Unavailable
from muster.management_api.tasks.domain.feed_end import QUIET_S, SETTLE_S, FeedEnd
from muster.management_api.tasks.domain.feed_sources import (
    GUARDIAN,
    TASKS,
    FeedLog,
    GuardianSource,
    LogSource,
    TaskSource,
)
from muster.management_api.tasks.domain.task_cursor import LogPosition, TaskCursor

log = structlog.get_logger()

RECHECK_S = 5.0
"""Seconds between looks when nothing wakes the feed: on a cluster a direct get may return old data."""
RETRY_S = 0.25


class TaskFeed:
    """One client's way through the feed of one task. `position` is the cursor after the last event given."""

    def __init__(self, bus: Bus, position: TaskCursor, ending: FeedEnd) -> None:
        self._bus, self._journal = bus, Journal(bus)
        self.position, self.ending = position, ending
        self._sources: list[FeedLog] = [TaskSource(position, ending, self._discover), GuardianSource(position)]
        self._discovered: list[LogSource] = []
        self._unreadable: Fault | None = None
        self._woken = asyncio.Event()
        self._last_event_at = 0.0
        self._streams: dict[str, StreamIdentity] = {}
        for sandbox_id in position.logs:
            self._sources.append(LogSource(position, sandbox_id, ending))

    async def to_the_present(self) -> AsyncIterator[FeedEvent]:
        """Yield everything up to now. Raises `Unavailable` or `TimedOut` if a log cannot be read."""
        async for event in self._round():
            yield event
        if self._unreadable is not None:
            raise self._unreadable

    async def follow(self) -> AsyncGenerator[FeedEvent | None]:
        """Yield everything and then later events, until the task has ended; None at intervals while nothing happens.

        Raises `Unavailable` if a stream was lost and created again: the client resumes, and is told to begin again.
        """
        async with AsyncExitStack() as stack:
            reconnected = await stack.enter_async_context(self._bus.woken_by())
            for source in self._sources:
                await self._watch(source, stack)
            loop = asyncio.get_running_loop()
            self._last_event_at = loop.time()
            while True:
                self._woken.clear()
                for name in {source.stream for source in self._sources}:
                    await self._streams.setdefault(name, StreamIdentity(self._bus, name)).refuse_changed()
                async for event in self._round(stack):
                    self._last_event_at = loop.time()
                    yield event
                quiet_s = loop.time() - self._last_event_at
                if self._unreadable is None and self.ending.reached(self._bus.now(), quiet_s=quiet_s):
                    return
                yield None
                await self._wait(reconnected)

    async def _wait(self, reconnected: asyncio.Event) -> None:
        wait_s = RETRY_S if self._unreadable else QUIET_S if self.ending.task_ended else RECHECK_S
        try:
            async with asyncio.timeout(min(wait_s, SETTLE_S)):
                await self._woken.wait()
        except TimeoutError:
            for source in self._sources:
                source.unread = True
        if reconnected.is_set():
            reconnected.clear()
            for source in self._sources:
                source.unread = True

    async def _watch(self, source: FeedLog, stack: AsyncExitStack) -> None:
        async def wake(_: Incoming) -> None:
            source.unread = True
            self._woken.set()

        subscription = await self._bus.subscribe(when_stored(source.subject), wake)
        stack.push_async_callback(subscription.unsubscribe)

    async def _round(self, stack: AsyncExitStack | None = None) -> AsyncIterator[FeedEvent]:
        """Yield what is new in every unread log, in the order in which it was stored."""
        self._unreadable = None
        heads: dict[FeedLog, tuple[Stored, AsyncIterator[Stored]]] = {}
        for source in [source for source in self._sources if source.unread]:
            await self._open(source, heads)
        while ready := [source for source, (stored, _) in heads.items() if not source.waits(stored.body)]:
            source = min(ready, key=lambda source: heads[source][0].at)
            stored, rest = heads.pop(source)
            for event in source.take(stored.position, stored.at, stored.body):
                for found in await self._join(stack):
                    await self._open(found, heads)
                yield event
            await self._advance(source, rest, heads)
        for source in heads:
            source.unread = True  # it waits for another log, which has nothing new yet

    async def _join(self, stack: AsyncExitStack | None) -> list[LogSource]:
        found, self._discovered = self._discovered, []
        for source in found:
            self._sources.append(source)
            if stack is not None:
                await self._watch(source, stack)
        return found

    async def _open(self, source: FeedLog, heads: dict[FeedLog, tuple[Stored, AsyncIterator[Stored]]]) -> None:
        source.unread = False  # before reading: what is published from here on sets it again
        await self._advance(source, self._journal.replay(source.stream, source.subject, after=source.after), heads)

    async def _advance(
        self,
        source: FeedLog,
        rest: AsyncIterator[Stored],
        heads: dict[FeedLog, tuple[Stored, AsyncIterator[Stored]]],
    ) -> None:
        try:
            heads[source] = (await anext(rest), rest)
        except StopAsyncIteration:
            pass
        except (Unavailable, TimedOut) as fault:
            log.warning("feed source not readable", stream=source.stream, error=str(fault))
            source.unread, self._unreadable = True, fault

    def _discover(self, sandbox_id: str) -> None:
        if sandbox_id not in self.position.logs:
            self.position.know([sandbox_id])
            self._discovered.append(LogSource(self.position, sandbox_id, self.ending))


async def is_known(bus: Bus, position: TaskCursor, sandbox_ids: Collection[str]) -> bool:
    """Whether a position that a client brings back can be of this task's feed, and not beyond its streams' ends.

    `sandbox_ids` are known to be the task's own. A log of any other sandbox must say that it is this task's: the feed
    would otherwise subscribe to, and read again and again, whatever a client names. A sandbox that has no log yet is
    dropped from the position: nothing of it was read, and its task names it once it has one.
    """
    for sandbox_id in [named for named in position.logs if named not in sandbox_ids]:
        last = await Journal(bus).tail(log_stream(partition(sandbox_id)), log_subject(sandbox_id))
        if last is None and not position.logs[sandbox_id].frame:
            del position.logs[sandbox_id]
        elif last is None or not _is_of(position.task_id, last.body):
            return False
    ends = {TASKS: position.tasks, GUARDIAN: position.guardian}
    for sandbox_id, place in position.logs.items():
        stream = log_stream(partition(sandbox_id))
        ends[stream] = max(ends.get(stream, 0), place.frame)
    for stream, end in ends.items():
        if end and (await stream_state(bus, stream)).last_seq < end:
            return False
    return True


def _is_of(task_id: str, frame: bytes) -> bool:
    try:
        return decode(frame, FrameHead).task_id == task_id
    except InvalidMessage:
        return False


async def at_the_end(bus: Bus, task_id: str, sandbox_ids: list[str]) -> TaskCursor:
    """The position that only what is still to come lies after."""
    position = TaskCursor(task_id=task_id)
    position.tasks = (await stream_state(bus, TASKS)).last_seq
    position.guardian = (await stream_state(bus, GUARDIAN)).last_seq
    for sandbox_id in sandbox_ids:
        stored = await stream_state(bus, log_stream(partition(sandbox_id)))
        position.logs[sandbox_id] = LogPosition(frame=stored.last_seq)
    return position


async def told_before(bus: Bus, position: TaskCursor) -> list[TaskChanged]:
    """What was the last to be told of the task, of each kind, up to a position."""
    if not position.tasks:
        return []
    return [changed for at, changed in await _last_of_each(bus, position.task_id) if at <= position.tasks]


async def last_told(bus: Bus, task_id: str) -> list[TaskChanged]:
    """The last event of each kind that the manager told of a task; none of a task nobody has heard of."""
    return [changed for _, changed in await _last_of_each(bus, task_id)]


async def _last_of_each(bus: Bus, task_id: str) -> list[tuple[int, TaskChanged]]:
    found: list[tuple[int, TaskChanged]] = []
    for stored in await Journal(bus).last_of_each(TASKS, f"task.{token(task_id, 'task_id')}.event.*"):
        with suppress(InvalidMessage):  # of another release: the feed shows it as it is
            found.append((stored.position, decode(stored.body, TaskChanged)))
    return found
