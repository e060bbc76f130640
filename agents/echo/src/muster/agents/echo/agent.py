"""The echo agent, which shows how small an agent can be: it answers each message with the text of the message."""

from typing import override

from muster.agent.base import Agent, AgentMessage
from muster.agent.task_run import TaskContext, TaskRun


class EchoAgent(Agent):
    """Answers messages with their text in process mode; plays the steps of the task's metadata in a sandbox."""

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
        from muster.agents.echo.step_player import Performance

        return Performance(context)
