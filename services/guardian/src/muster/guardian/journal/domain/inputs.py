"""The inputs: facts that a decision needs and that are not in the sandbox log.

Each is appended to the guardian's log before it is folded, so that a refold has the same inputs at the same places.
"""

from datetime import datetime
from typing import ClassVar

from muster.common.contract import Message, decode
from muster.common.contracts.guardian import GuardianRecord


class GuardianInput(Message):
    """The body of an input record. `KIND` is the kind of the record."""

    KIND: ClassVar[str] = ""


class Policy(GuardianInput):
    """The settings that apply from this record on. No decision is made before the first one."""

    KIND: ClassVar[str] = "policy"

    repeat_threshold: int = 4
    ignored_after: int = 3
    most_interventions: int = 3
    message_ttl_s: float = 600.0


class SteerRequested(GuardianInput):
    """A person has requested a steering message to the agent."""

    KIND: ClassVar[str] = "steer_requested"

    message_id: str
    text: str
    sender: str
    urgent: bool


class MessageSent(GuardianInput):
    """The gateway has stored the message in the sandbox's inbox, at this position."""

    KIND: ClassVar[str] = "sent"

    message_id: str
    position: int


class MessageRefused(GuardianInput):
    """The gateway has refused the message for good."""

    KIND: ClassVar[str] = "refused"

    message_id: str
    code: str
    detail: str


class SilenceObserved(GuardianInput):
    """The sandbox sent no beat and no event for `ttl_s` seconds, while the path from worker to guardian was up."""

    KIND: ClassVar[str] = "silence"

    heard_at: datetime
    ttl_s: float


class ReplaceAnswered(GuardianInput):
    """The manager's answer to the request to replace the attempt."""

    KIND: ClassVar[str] = "replace_answered"

    decision_id: str
    result: str
    detail: str = ""


_TYPES: dict[str, type[GuardianInput]] = {
    type_.KIND: type_
    for type_ in (Policy, SteerRequested, MessageSent, MessageRefused, SilenceObserved, ReplaceAnswered)
}


def read_input(record: GuardianRecord) -> GuardianInput | None:
    """Decode the body of an input record; None for a kind that this version does not know."""
    type_ = _TYPES.get(record.kind)
    return decode(bytes(record.body), type_) if type_ else None
