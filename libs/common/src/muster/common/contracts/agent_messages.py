"""Messages to a running process-mode agent."""

from typing import Any

from muster.common.contract import Command, Message


class Handed(Message):
    """The agent took the message; `agent` is its own answer."""

    agent_id: str
    message_id: str
    agent: dict[str, Any]


class MessageAgent(Command[Handed], subject="agent.manager.command.message"):
    """Hand a text to a running process-mode agent."""

    agent_id: str
    message_id: str
    text: str
    sender: str = "operator"
