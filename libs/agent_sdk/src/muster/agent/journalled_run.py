"""A run with its conversation in an `EventJournal`, for agents whose library stores no conversation."""

import asyncio
from typing import Any, override

from muster.agent.event_builder import Body, EventBuilder
from muster.agent.journal import EventJournal, JournalPosition
from muster.agent.steering import marked_text, sender
from muster.agent.task_run import TaskContext, TaskRun
from muster.common.contracts.worker_api import InboxMessage
from muster.common.ids import new_id


class JournalledRun(TaskRun):
    """A run of a task that continues after the last event of its journal.

    Subclasses may await only between two events, so that a cancelled `run` never leaves an incomplete event.
    """

    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        self.journal = EventJournal(context.state_dir / "events.jsonl")
        self.build = EventBuilder(context.now, new_id)
        self._delivered = self.journal.delivered()
        self.running: asyncio.Task[Any] | None = None
        """The task that executes `run`, set by `run` itself; `stop` cancels it."""

    @property
    @override
    def events(self) -> EventJournal:
        return self.journal

    @property
    @override
    def delivered(self) -> set[str]:
        return self._delivered

    @override
    async def deliver(self, message: InboxMessage) -> None:
        self.write([self.build.message("user", "user", marked_text(message), sender=sender(message))], None)
        self._delivered.add(message.message_id)

    @override
    async def stop(self) -> None:
        if self.running:
            self.running.cancel()

    def write(self, bodies: list[Body], position: JournalPosition | None) -> None:
        """Write events to disk, then announce them to the outbox."""
        self.journal.append(bodies, position)
        self.context.announce()
