"""The OpenHands agent and its run. The slow import of the OpenHands SDK begins only after heartbeats have started."""

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar, override

import msgspec

from muster.agent.base import Agent
from muster.agent.loopback_proxy import gateway_tcp_url
from muster.agent.steering import marked_text, sender
from muster.agent.task_run import TaskContext, TaskRun
from muster.agents.openhands.conversation import Conversation, event_folder
from muster.agents.openhands.event_files import EventFiles
from muster.agents.openhands.options import options_of
from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.worker_api import InboxMessage
from muster.common.faults import InvalidMessage


class OpenHandsAgent(Agent):
    """An agent that works on tasks in a sandbox. It has no process mode, because a process has no access to a model."""

    defaults: ClassVar[dict[str, Any]] = {}
    """Values of the options (`options.Options`) for which neither the agent nor the task has a value.

    A package of one's own sets `defaults` in a subclass, for example to give all of its agents an MCP server.
    """

    @override
    def task(self, context: TaskContext) -> TaskRun:
        return CodingRun(context, self.defaults, self.context.config)


class CodingRun(TaskRun):
    """The run of one task, which is one OpenHands conversation about the task's objective."""

    def __init__(self, context: TaskContext, defaults: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        super().__init__(context)
        self._files = EventFiles(event_folder(context))
        self._conversation: Conversation | None = None
        self._refusal: InvalidMessage | None = None
        try:
            self._conversation = Conversation(context, self._files, options_of(defaults, config))
        except InvalidMessage as refusal:
            self._refusal = refusal

    @property
    @override
    def events(self) -> EventFiles:
        return self._files

    @property
    @override
    def delivered(self) -> set[str]:
        return self._files.delivered()

    @override
    async def run(self) -> Finished:
        if self._conversation is None:
            return Finished(outcome="refused", error=str(self._refusal))
        async with gateway_tcp_url(self.context.handoff) as url:
            result = await asyncio.to_thread(self._conversation.drive, url)
        token = self.context.handoff.token
        return msgspec.structs.replace(result, error=result.error and result.error.replace(token, "[token]"))

    @override
    async def deliver(self, message: InboxMessage) -> None:
        if self._conversation is not None:
            deliver = self._conversation.deliver
            await asyncio.to_thread(deliver, marked_text(message), sender(message), urgent=message.urgent)

    @override
    async def stop(self) -> None:
        if self._conversation is not None:
            await asyncio.to_thread(self._conversation.stop)
