"""The agent of this package. Muster starts the agent, sends it messages and restarts it after a crash."""

from muster.agent.base import Agent, AgentMessage


class TemplateAgent(Agent):
    """An agent that answers each message with a configured greeting and the text of the message."""

    async def on_message(self, message: AgentMessage) -> str:
        """Return the answer to a message. To refuse the message, raise a `muster.common.faults.Fault`."""
        self.emit("answered", to=message.sender)
        return f"{self.context.config.get('greeting', 'You said')}: {message.text}"
