"""The message class that `Agent.on_message` receives."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AgentMessage:
    """A message to the agent. In a sandbox, the first message is the objective of the task."""

    message_id: str
    text: str
    sender: str
    urgent: bool = False
