"""The decisions: bodies of decision records.

The id of a decision is a hash of the facts that it was made from. So a refold makes the same decision with the same id,
and carrying a decision out twice is recognized by its id.
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
    """The body of a decision record.

    `cites` names the event, frame or record that led to it: `sandbox_log#seq`, `sandbox_log@position` or
    `guardian_log#n`. `seqs` are the numbers of the events that it refers to.
    """

    id: str
    cites: str
    seqs: list[int] = []

    @property
    def kind(self) -> str:
        """The kind of the record, and the token `<kind>` of `guardian.event.<kind>.<task>`."""
        raise NotImplementedError


class FindingDecision(Decision):
    """A detector found trouble. `id` is the id of the finding."""

    detector: str
    summary: str

    @property
    def kind(self) -> str:
        """See `Decision.kind`."""
        return FINDING


class Issued(Decision):
    """A steering message shall be sent to the agent. `finding_id` is None for a message of a person."""

    message_id: str
    finding_id: str | None
    text: str
    sender: str
    urgent: bool
    expires_at: datetime

    @property
    def kind(self) -> str:
        """See `Decision.kind`."""
        return ISSUED


class Reached(Decision):
    """A steering message reached a stage later than `issued`."""

    message_id: str
    stage: InterventionStage
    outcome: Outcome | None = None
    detail: str | None = None

    @property
    def kind(self) -> str:
        """See `Decision.kind`."""
        return self.stage


class Unresponsive(Decision):
    """The sandbox is silent, so its attempt shall be replaced."""

    reason: str

    @property
    def kind(self) -> str:
        """See `Decision.kind`."""
        return UNRESPONSIVE


def id_from(prefix: Prefix, *facts: object) -> str:
    """Return the id made of these facts. The same facts give the same id, in every refold."""
    return derived_id(prefix, sha256(encode([str(fact) for fact in facts])).digest())


def read_decision(record: GuardianRecord) -> Decision:
    """Decode the body of a decision record."""
    types: dict[str, type[Decision]] = {FINDING: FindingDecision, ISSUED: Issued, UNRESPONSIVE: Unresponsive}
    return decode(bytes(record.body), types.get(record.kind, Reached))
