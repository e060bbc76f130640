"""The command that sends a message to a running process-mode agent, and the reply."""

from typing import Any

from muster.common.contract import Command, Message


class Handed(Message):
    """The reply to `MessageAgent`: the agent has accepted the message. `agent` is the agent's own answer."""

    agent_id: str
    message_id: str
    agent: dict[str, Any]


class MessageAgent(Command[Handed], subject="agent.manager.command.message"):
    """Send a text to a running process-mode agent."""

    agent_id: str
    message_id: str
    text: str
    sender: str = "operator"
