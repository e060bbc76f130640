"""What the agent does; Muster does the rest."""

from muster.agent.base import Agent, AgentMessage


class TemplateAgent(Agent):
    """Says back what it is told."""

    async def on_message(self, message: AgentMessage) -> str:
        """Answers one message. Raise a `muster.common.faults.Fault` to refuse it in words."""
        self.emit("answered", to=message.sender)
        return f"{self.context.config.get('greeting', 'You said')}: {message.text}"
