"""The inputs of the guardian's decisions: requests, answers, observations and settings.

The sandbox log does not contain the inputs, but the decisions depend on them.

Each input is appended to the guardian's log before a decision is made from it. So a replay of the logs after a crash
has the same inputs in the same order.
"""

from datetime import datetime
from typing import ClassVar

from muster.common.contract import Message, decode
from muster.common.contracts.guardian import GuardianRecord


class GuardianInput(Message):
    """The body of an input record in the guardian's log. `KIND` is the kind of the record."""

    KIND: ClassVar[str] = ""


class Policy(GuardianInput):
    """An input: the guardian's settings that apply from this record on. Decisions need at least one such record."""

    KIND: ClassVar[str] = "policy"

    repeat_threshold: int = 4
    ignored_after: int = 3
    most_interventions: int = 3
    message_ttl_s: float = 600.0


class SteerRequested(GuardianInput):
    """An input: a person has requested a steering message to the agent."""

    KIND: ClassVar[str] = "steer_requested"

    message_id: str
    text: str
    sender: str
    urgent: bool


class MessageSent(GuardianInput):
    """An input: the gateway has stored the steering message in the sandbox's inbox, at position `position`."""

    KIND: ClassVar[str] = "sent"

    message_id: str
    position: int


class MessageRefused(GuardianInput):
    """An input: the gateway has refused the steering message permanently."""

    KIND: ClassVar[str] = "refused"

    message_id: str
    code: str
    detail: str


class SilenceObserved(GuardianInput):
    """An input: a sandbox sent no heartbeat and no event for `ttl_s` seconds, while NATS and a gateway worked."""

    KIND: ClassVar[str] = "silence"

    heard_at: datetime
    ttl_s: float


class ReplaceAnswered(GuardianInput):
    """An input: the agent manager's answer to the guardian's request to replace an attempt."""

    KIND: ClassVar[str] = "replace_answered"

    decision_id: str
    result: str
    detail: str = ""


_TYPES: dict[str, type[GuardianInput]] = {
    type_.KIND: type_
    for type_ in (Policy, SteerRequested, MessageSent, MessageRefused, SilenceObserved, ReplaceAnswered)
}


def read_input(record: GuardianRecord) -> GuardianInput | None:
    """Decode the body of an input record; return None for a kind that this version of the code does not know."""
    type_ = _TYPES.get(record.kind)
    return decode(bytes(record.body), type_) if type_ else None
