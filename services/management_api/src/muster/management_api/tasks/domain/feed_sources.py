"""The logs that a task's feed reads. Each class knows the stream of its log and converts messages to feed events."""

from collections.abc import Callable, Iterator
from datetime import datetime

import msgspec

from muster.common.contract import decode, token
from muster.common.contracts.feed import FeedEvent, FeedSource
from muster.common.contracts.guardian import GuardianTold
from muster.common.contracts.sandbox_log import Frame, FrameHead, FrameKind, log_stream, log_subject, partition
from muster.common.contracts.tasks import TaskChanged
from muster.common.faults import InvalidMessage
from muster.management_api.tasks.domain.feed_end import FeedEnd
from muster.management_api.tasks.domain.task_cursor import TaskCursor

TASKS, GUARDIAN = "TASKS", "GUARDIAN"


class FeedLog:
    """One log that a task's feed reads. `unread` is set when the log may have new messages."""

    name: FeedSource
    stream: str
    subject: str

    def __init__(self, position: TaskCursor) -> None:
        self.position = position
        self.unread = True

    @property
    def after(self) -> int:
        """The stream position up to which this log was read."""
        raise NotImplementedError

    def take(self, position: int, at: datetime, body: bytes) -> Iterator[FeedEvent]:
        """Yield the feed events of a stored message. After each event, the feed's cursor is right after this event."""
        raise NotImplementedError

    def waits(self, body: bytes) -> bool:
        """Return whether this message must wait until the feed has yielded a certain event of another log."""
        del body
        return False

    def unreadable(self, at: datetime, why: Exception) -> FeedEvent:
        """Return a feed event of the kind `unreadable` for a stored message that does not match its contract."""
        body = msgspec.Raw(msgspec.json.encode({"why": str(why)}))
        return FeedEvent(source=self.name, kind="unreadable", at=at, task_id=self.position.task_id, body=body)


class TaskSource(FeedLog):
    """The log of the task's events, which the agent manager publishes."""

    name, stream = "task", TASKS

    def __init__(self, position: TaskCursor, ending: FeedEnd, on_sandbox: Callable[[str], None]) -> None:
        super().__init__(position)
        self.subject = f"task.{token(position.task_id, 'task_id')}.event.*"
        self._ending, self._on_sandbox = ending, on_sandbox

    @property
    def after(self) -> int:
        """The position in the stream `TASKS` up to which the task's events were read."""
        return self.position.tasks

    def take(self, position: int, at: datetime, body: bytes) -> Iterator[FeedEvent]:
        """Yield the feed event of a task event. If the task event names a new sandbox, add its log to the feed."""
        try:
            changed = decode(body, TaskChanged)
            if changed.sandbox_id is not None:
                self._on_sandbox(token(changed.sandbox_id, "sandbox_id"))
        except InvalidMessage as error:
            self.position.tasks = position
            yield self.unreadable(at, error)
            return
        self._ending.told(changed)
        self.position.tasks = position
        yield FeedEvent(
            source="task",
            kind=changed.kind,
            at=changed.at,
            task_id=changed.task_id,
            sandbox_id=changed.sandbox_id,
            epoch=changed.epoch,
            agent_id=changed.agent_id,
            event_id=changed.event_id,
            version=changed.version,
            state=changed.state,
            body=changed.body,
        )


class GuardianSource(FeedLog):
    """The log of the guardian's events about the task."""

    name, stream = "guardian", GUARDIAN

    def __init__(self, position: TaskCursor) -> None:
        super().__init__(position)
        self.subject = f"guardian.event.*.{token(position.task_id, 'task_id')}"

    @property
    def after(self) -> int:
        """The position in the stream `GUARDIAN` up to which the guardian's events were read."""
        return self.position.guardian

    def take(self, position: int, at: datetime, body: bytes) -> Iterator[FeedEvent]:
        """Yield the feed event of one guardian event."""
        self.position.guardian = position
        try:
            told = decode(body, GuardianTold)
        except InvalidMessage as error:
            yield self.unreadable(at, error)
            return
        yield FeedEvent(
            source="guardian",
            kind=told.kind,
            at=told.at,
            task_id=told.task_id,
            sandbox_id=told.sandbox_id,
            epoch=told.epoch,
            event_id=told.event_id,
            seqs=told.seqs,
            body=msgspec.Raw(msgspec.json.encode(told.body)),
        )


class LogSource(FeedLog):
    """The log of one sandbox. Each event in a frame (one append to the log) becomes one event of the feed.

    A frame without events also becomes one event of the feed.
    """

    name = "log"

    def __init__(self, position: TaskCursor, sandbox_id: str, ending: FeedEnd) -> None:
        super().__init__(position)
        self.sandbox_id, self._ending = sandbox_id, ending
        self._begun = False
        self.stream, self.subject = log_stream(partition(sandbox_id)), log_subject(sandbox_id)
        ending.follows(sandbox_id)

    @property
    def after(self) -> int:
        """The stream position up to which the sandbox's log was read."""
        return self.position.logs[self.sandbox_id].frame

    def waits(self, body: bytes) -> bool:
        """Return True for a `finished` frame until the feed has yielded a task event that shows the attempt's start.

        The agent manager stores a task's events after it has read the sandbox's log. Without the wait, the feed would
        yield the task's state `running` after the frame `finished`.
        """
        if self._begun:
            return False
        try:
            head = decode(body, FrameHead)
        except InvalidMessage:
            return False
        self._begun = self._ending.has_begun(head.epoch)
        return head.kind is FrameKind.FINISHED and not self._begun

    def take(self, position: int, at: datetime, body: bytes) -> Iterator[FeedEvent]:
        """Yield the feed events of a frame, without events that are before the feed's cursor."""
        place = self.position.logs[self.sandbox_id]
        try:
            frame = decode(body, Frame)
        except InvalidMessage as error:
            place.frame, place.taken = position, 0
            yield self.unreadable(at, error)
            return
        # A client's token may name any sandbox, but only the task's own sandboxes belong to the feed.
        if frame.task_id != self.position.task_id:
            place.frame, place.taken = position, 0
            return
        if frame.kind.terminal:
            self._ending.log_ended(self.sandbox_id)
        events = list(_events(frame))
        while place.taken < len(events):
            event = events[place.taken]
            if place.taken + 1 == len(events):
                place.frame, place.taken = position, 0
                yield event
                return
            place.taken += 1
            yield event
        place.frame, place.taken = position, 0


def _events(frame: Frame) -> Iterator[FeedEvent]:
    if frame.kind is not FrameKind.EVENTS:
        yield FeedEvent(
            source="log",
            kind=frame.kind,
            at=frame.at,
            task_id=frame.task_id,
            sandbox_id=frame.sandbox_id,
            epoch=frame.epoch,
            agent_id=frame.agent_id,
            body=frame.body,
        )
        return
    for event in frame.events:
        yield FeedEvent(
            source="log",
            kind=event.kind,
            at=event.at,
            task_id=frame.task_id,
            sandbox_id=frame.sandbox_id,
            epoch=frame.epoch,
            agent_id=frame.agent_id,
            event_id=event.event_id,
            seq=event.seq,
            origin=event.source,
            body=event.body,
            payload=event.payload,
        )
