"""The feed of a task: merges the task's events, the guardian's events and the sandbox logs by their times.

The feed starts at a client's cursor, and waits for later events when it has yielded all stored events.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AsyncExitStack, suppress

import structlog

from muster.common.bus.connection import Bus, Incoming
from muster.common.bus.message_store import MessageStore, Stored
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
"""Seconds between two reads of the logs without a wake-up: in a cluster a direct get may return old data."""
RETRY_S = 0.25


class TaskFeed:
    """The feed of one task for one client. `position` is the cursor after the last event that was yielded."""

    def __init__(self, bus: Bus, position: TaskCursor, ending: FeedEnd) -> None:
        self._bus, self._message_store = bus, MessageStore(bus)
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
        """Yield the events of the feed up to now. Raises `Unavailable` or `TimedOut` if a log cannot be read."""
        async for event in self._round():
            yield event
        if self._unreadable is not None:
            raise self._unreadable

    async def follow(self) -> AsyncGenerator[FeedEvent | None]:
        """Yield the present and later events of the feed, until the task has ended.

        Yields None after each read of the logs. Raises `Unavailable` if a stream was lost and created again: the client
        then resumes, and all events are sent to it again.
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
        """Yield the new events of all logs that may have new messages, sorted by the time of storage."""
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
            source.unread = True  # The next event of this log must wait for another log's event.

    async def _join(self, stack: AsyncExitStack | None) -> list[LogSource]:
        found, self._discovered = self._discovered, []
        for source in found:
            self._sources.append(source)
            if stack is not None:
                await self._watch(source, stack)
        return found

    async def _open(self, source: FeedLog, heads: dict[FeedLog, tuple[Stored, AsyncIterator[Stored]]]) -> None:
        # `unread` is cleared before the read, because a message that is published during the read sets it again.
        source.unread = False
        await self._advance(
            source, self._message_store.replay(source.stream, source.subject, after=source.after), heads
        )

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
            log.warning("log of a task's feed not readable", stream=source.stream, error=str(fault))
            source.unread, self._unreadable = True, fault

    def _discover(self, sandbox_id: str) -> None:
        if sandbox_id not in self.position.logs:
            self.position.know([sandbox_id])
            self._discovered.append(LogSource(self.position, sandbox_id, self.ending))


async def is_known(bus: Bus, position: TaskCursor, sandbox_ids: Collection[str]) -> bool:
    """Return whether a client's cursor can belong to the feed of this task: no position may be after a stream's end.

    The sandboxes in `sandbox_ids` are known to belong to the task. For any other sandbox in the cursor, the last frame
    of its log must name this task. Without this check the feed would read the log of any sandbox that a client names. A
    sandbox that has no log yet is removed from the cursor: no event of it was read, and the task's events name it.
    """
    for sandbox_id in [named for named in position.logs if named not in sandbox_ids]:
        last = await MessageStore(bus).tail(log_stream(partition(sandbox_id)), log_subject(sandbox_id))
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
    """Return the cursor at the present end of a task's feed. Only later events are after this cursor."""
    position = TaskCursor(task_id=task_id)
    position.tasks = (await stream_state(bus, TASKS)).last_seq
    position.guardian = (await stream_state(bus, GUARDIAN)).last_seq
    for sandbox_id in sandbox_ids:
        stored = await stream_state(bus, log_stream(partition(sandbox_id)))
        position.logs[sandbox_id] = LogPosition(frame=stored.last_seq)
    return position


async def told_before(bus: Bus, position: TaskCursor) -> list[TaskChanged]:
    """Return a task's last stored event of each kind of event, but only events up to the cursor `position`."""
    if not position.tasks:
        return []
    return [changed for at, changed in await _last_of_each(bus, position.task_id) if at <= position.tasks]


async def last_told(bus: Bus, task_id: str) -> list[TaskChanged]:
    """Return a task's last stored event of each kind of event; an empty list if the task has no events."""
    return [changed for _, changed in await _last_of_each(bus, task_id)]


async def _last_of_each(bus: Bus, task_id: str) -> list[tuple[int, TaskChanged]]:
    found: list[tuple[int, TaskChanged]] = []
    for stored in await MessageStore(bus).last_of_each(TASKS, f"task.{token(task_id, 'task_id')}.event.*"):
        # An event that this release cannot decode is omitted from `found`. The task's feed sends it as `unreadable`.
        with suppress(InvalidMessage):
            found.append((stored.position, decode(stored.body, TaskChanged)))
    return found
