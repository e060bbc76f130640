"""The agent: Muster starts it, passes messages to it and restarts it after a crash."""

from muster.agent.base import Agent, AgentMessage


class TemplateAgent(Agent):
    """Answers each message with its text, after the configured greeting."""

    async def on_message(self, message: AgentMessage) -> str:
        """Answer a message. Raise a `muster.common.faults.Fault` to refuse it: the sender receives its text."""
        self.emit("answered", to=message.sender)
        return f"{self.context.config.get('greeting', 'You said')}: {message.text}"
