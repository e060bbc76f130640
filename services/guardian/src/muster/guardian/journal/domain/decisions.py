"""The guardian's decisions, which are the bodies of decision records in its log.

The id of a decision is a hash of values that identify the decision and its cause. So a refold (a replay of the logs)
makes the same decision with the same id, and a service that receives a decision twice recognizes the id.
"""

from datetime import datetime
from hashlib import sha256
from typing import Literal

from muster.common.contract import Message, decode, encode
from muster.common.contracts.guardian import GuardianRecord, InterventionStage
from muster.common.ids import Prefix, derived_id

Outcome = Literal["heeded", "ignored", "moot"]
FINDING, ISSUED, UNRESPONSIVE = "finding", "issued", "unresponsive"


class Decision(Message):
    """The body of a decision record in the guardian's log.

    `cites` names the event, frame or record that led to the decision: `sandbox_log#seq`, `sandbox_log@position` or
    `guardian_log#n`. `seqs` are the numbers of the events that the decision refers to.
    """

    id: str
    cites: str
    seqs: list[int] = []

    @property
    def kind(self) -> str:
        """The kind of the decision's record, which is also the token `<kind>` in `guardian.event.<kind>.<task>`."""
        raise NotImplementedError


class FindingDecision(Decision):
    """The decision that a detector has found trouble. `id` is the id of the finding."""

    detector: str
    summary: str

    @property
    def kind(self) -> str:
        """The kind of this decision's record in the guardian's log: `finding`."""
        return FINDING


class Issued(Decision):
    """The decision to send a steering message to the agent. `finding_id` is None for a message of a person."""

    message_id: str
    finding_id: str | None
    text: str
    sender: str
    urgent: bool
    expires_at: datetime

    @property
    def kind(self) -> str:
        """The kind of this decision's record in the guardian's log: `issued`."""
        return ISSUED


class Reached(Decision):
    """The decision that a steering message has reached a stage after `issued`, such as `delivered`."""

    message_id: str
    stage: InterventionStage
    outcome: Outcome | None = None
    detail: str | None = None

    @property
    def kind(self) -> str:
        """The kind of this decision's record in the guardian's log: the name of the reached stage."""
        return self.stage


class Unresponsive(Decision):
    """The decision to replace the attempt of a sandbox that sends no heartbeats and no events."""

    reason: str

    @property
    def kind(self) -> str:
        """The kind of this decision's record in the guardian's log: `unresponsive`."""
        return UNRESPONSIVE


def id_from(prefix: Prefix, *facts: object) -> str:
    """Return an id that is a hash of the given values. The same values always give the same id."""
    return derived_id(prefix, sha256(encode([str(fact) for fact in facts])).digest())


def read_decision(record: GuardianRecord) -> Decision:
    """Decode the body of a decision record from the guardian's log."""
    types: dict[str, type[Decision]] = {FINDING: FindingDecision, ISSUED: Issued, UNRESPONSIVE: Unresponsive}
    return decode(bytes(record.body), types.get(record.kind, Reached))
