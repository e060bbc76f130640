"""A run whose conversation is a journal of its own, for an agent whose library keeps none."""

import asyncio
from typing import Any, override

from muster.agent.event_builder import Body, EventBuilder
from muster.agent.journal import EventJournal, JournalPosition
from muster.agent.steering import marked, sender
from muster.agent.task_run import TaskContext, TaskRun
from muster.common.contracts.doors import InboxMessage
from muster.common.ids import new_id


class JournalledRun(TaskRun):
    """Goes on where its journal ends. `run` only ever waits between two events, and may be cancelled there."""

    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        self.journal = EventJournal(context.state_dir / "events.jsonl")
        self.build = EventBuilder(context.now, new_id)
        self._delivered = self.journal.delivered()
        self.running: asyncio.Task[Any] | None = None
        """What `run` runs in, once it says so."""

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
        self.write([self.build.message("user", "user", marked(message), sender=sender(message))], None)
        self._delivered.add(message.message_id)

    @override
    async def stop(self) -> None:
        if self.running:
            self.running.cancel()

    def write(self, bodies: list[Body], position: JournalPosition | None) -> None:
        """To disk first, then announced."""
        self.journal.append(bodies, position)
        self.context.announce()
