"""The command that sends a message to a running process-mode agent, its reply, and the outcome of the message."""

from typing import Any, Literal

import msgspec

from muster.common.contract import Command, Message, decode
from muster.common.contracts.agents import AgentChanged

MessageState = Literal["accepted", "answered", "failed", "lost"]
"""`accepted`: the agent works on the message. `lost`: the agent's process ended before it answered the message."""
OUTCOME_KINDS = frozenset({"message-answered", "message-failed", "message-lost"})
"""The kinds of an agent's events that contain the outcome of a message."""


class MessageError(Message):
    """The reason why a message has no answer: the fault or the exception of the agent, or the end of its process."""

    code: str
    detail: str


class MessageResult(Message, omit_defaults=True):
    """The state of one message to an agent. An agent's event `message-…` contains it as `message` in its body."""

    message_id: str
    state: MessageState
    answer: str | None = None
    answer_bytes: int | None = None
    """The size of the whole answer in bytes, if `answer` is only the first part of it."""
    error: MessageError | None = None
    launch: int = 0
    """The launch of the agent that had the message."""


class Handed(Message):
    """The reply to `MessageAgent`: the agent has accepted the message. `agent` is the agent's own answer.

    `agent` has the fields of `MessageResult`. If the `state` is `accepted`, the outcome of the message is a later event
    of the agent. `confirmed` is false if the agent has not confirmed within 2 s that it received the message.
    """

    agent_id: str
    message_id: str
    agent: dict[str, Any]


class MessageAgent(Command[Handed], subject="agent.manager.command.message"):
    """Send a text to a running process-mode agent."""

    agent_id: str
    message_id: str
    text: str
    sender: str = "operator"


class MessageEventBody(msgspec.Struct, frozen=True):
    """Reads the outcome of a message from the body of an agent's event."""

    message: MessageResult


def message_outcome(event: AgentChanged | None) -> MessageResult | None:
    """Return the outcome of a message that an agent's event contains; None for another event."""
    if event is None or event.kind not in OUTCOME_KINDS:
        return None
    return decode(bytes(event.body), MessageEventBody).message
