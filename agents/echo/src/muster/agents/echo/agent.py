"""The echo agent, the smallest agent: it answers each message with its text."""

from typing import override

from muster.agent.base import Agent, AgentMessage
from muster.agent.task_run import TaskContext, TaskRun


class EchoAgent(Agent):
    """In process mode it answers messages with their text; in a sandbox it plays the steps in the task's metadata."""

    echoed = 0
    """Number of answered messages."""

    @override
    async def on_message(self, message: AgentMessage) -> str:
        text = f"{self.context.config.get('prefix', '')}{message.text}"
        self.echoed += 1
        self.emit("echoed", sender=message.sender, text=text)
        return text

    @override
    async def metrics(self) -> dict[str, float]:
        return {"echoed": self.echoed}

    @override
    def task(self, context: TaskContext) -> TaskRun:
        from muster.agents.echo.performance import Performance

        return Performance(context)
