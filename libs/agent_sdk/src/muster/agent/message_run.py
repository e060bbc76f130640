"""Runs a task with an agent that only answers messages. The objective of the task is the first message.

The run ends when the agent has answered the objective. The journal records two points of the run: the objective was
written, and the answer was written. If the worker dies between these two points, the next launch passes the objective
to the agent again:

    (empty) --write objective--> ASKED --agent answers, write answer--> ANSWERED --> finished
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, override

from muster.agent.agent_message import AgentMessage
from muster.agent.event_builder import text_of
from muster.agent.journal import JournalPosition
from muster.agent.journalled_run import JournalledRun
from muster.agent.task_run import TaskContext
from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.worker_api import InboxMessage

_ASKED, _ANSWERED = JournalPosition(0, 0), JournalPosition(1, 0)

logger = logging.getLogger(__name__)


class MessageRun(JournalledRun):
    """A run that stores the conversation for an agent that only answers messages.

    The next launch passes an unanswered objective to the agent again. `stop` only cancels the run. The worker calls the
    agent's own `stop` afterwards.
    """

    def __init__(self, on_message: Callable[[AgentMessage], Awaitable[str | None]], context: TaskContext) -> None:
        super().__init__(context)
        self._on_message = on_message

    @override
    async def run(self) -> Finished:
        self.running = asyncio.current_task()
        handoff = self.context.handoff
        if self.journal.position is None:
            self.write([self.build.message("user", "user", handoff.objective)], _ASKED)
        if self.journal.position != _ANSWERED:
            objective = AgentMessage(message_id=handoff.task_id, text=handoff.objective, sender="task")
            answer = await self._on_message(objective)
            self.write([self.build.message("agent", "assistant", answer or "")], _ANSWERED)
        last = next(body for body in reversed(self.journal.bodies()) if body["kind"] == "MessageEvent")
        return Finished(outcome="success", summary=text_of(last))

    @override
    async def deliver(self, message: InboxMessage) -> None:
        await super().deliver(message)
        steering = AgentMessage(
            message_id=message.message_id, text=message.text, sender=message.sender, urgent=message.urgent
        )
        try:
            answer = await self._on_message(steering)
        except Exception:  # A bug in the answer to one steering message must not end the task.
            logger.exception(
                "agent failed to answer a steering message", extra={"fields": {"message_id": message.message_id}}
            )
        else:
            self.write([self.build.message("agent", "assistant", answer or "")], None)

    @override
    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        self.write([self.build.agent_event(kind, fields)], None)
