"""What is not in the sandbox's log and matters to a decision: bodies of input records of the guardian's log."""

from datetime import datetime
from typing import ClassVar

from muster.common.contract import Message, decode
from muster.common.contracts.guardian import GuardianRecord


class GuardianInput(Message):
    """Any of them; `KIND` is the record's kind."""

    KIND: ClassVar[str] = ""


class Policy(GuardianInput):
    """The numbers in force from here on. Nothing is decided before the first one."""

    KIND: ClassVar[str] = "policy"

    repeat_threshold: int = 4
    ignored_after: int = 3
    most_interventions: int = 3
    message_ttl_s: float = 600.0


class SteerRequested(GuardianInput):
    """Somebody wants to say something to the agent."""

    KIND: ClassVar[str] = "steer_requested"

    message_id: str
    text: str
    sender: str
    urgent: bool


class MessageSent(GuardianInput):
    """The gateway's answer: the message is in the inbox."""

    KIND: ClassVar[str] = "sent"

    message_id: str
    position: int


class MessageRefused(GuardianInput):
    """The gateway's answer: the message will not be stored."""

    KIND: ClassVar[str] = "refused"

    message_id: str
    code: str
    detail: str


class SilenceObserved(GuardianInput):
    """No beat and no event for `ttl_s` seconds while the path from the worker to here was up."""

    KIND: ClassVar[str] = "silence"

    heard_at: datetime
    ttl_s: float


class ReplaceAnswered(GuardianInput):
    """The manager's answer to a request for a replacement."""

    KIND: ClassVar[str] = "replace_answered"

    decision_id: str
    result: str
    detail: str = ""


_TYPES: dict[str, type[GuardianInput]] = {
    type_.KIND: type_
    for type_ in (Policy, SteerRequested, MessageSent, MessageRefused, SilenceObserved, ReplaceAnswered)
}


def read_input(record: GuardianRecord) -> GuardianInput | None:
    """The body of an input record; nothing for a kind this version does not know."""
    type_ = _TYPES.get(record.kind)
    return decode(bytes(record.body), type_) if type_ else None
