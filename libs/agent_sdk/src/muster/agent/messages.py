"""A message to an agent."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AgentMessage:
    """A message to the agent. In a sandbox the task's objective is the first one."""

    message_id: str
    text: str
    sender: str
    urgent: bool = False
