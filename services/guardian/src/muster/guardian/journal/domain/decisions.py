"""What the guardian decides: bodies of decision records. Their ids rest on what they were decided from alone."""

from datetime import datetime
from hashlib import sha256
from typing import Literal

from muster.common.contract import Message, decode, encode
from muster.common.contracts.guardian import GuardianRecord, InterventionStage
from muster.common.ids import Prefix, derived_id

Outcome = Literal["heeded", "ignored", "moot"]
FINDING, ISSUED, UNRESPONSIVE = "finding", "issued", "unresponsive"


class Decision(Message):
    """Any of them. `cites` is where it was decided: `sandbox_log#seq`, `sandbox_log@position` or `guardian_log#n`."""

    id: str
    cites: str
    seqs: list[int] = []

    @property
    def kind(self) -> str:
        """The record's kind, and the middle token of `guardian.event.<kind>.<task>`."""
        raise NotImplementedError


class FindingDecision(Decision):
    """A finding; `id` is the finding's."""

    detector: str
    summary: str

    @property
    def kind(self) -> str:
        """See `Decision.kind`."""
        return FINDING


class Issued(Decision):
    """A steering message is to be sent."""

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
    """A steering message reached a stage after `issued`."""

    message_id: str
    stage: InterventionStage
    outcome: Outcome | None = None
    detail: str | None = None

    @property
    def kind(self) -> str:
        """See `Decision.kind`."""
        return self.stage


class Unresponsive(Decision):
    """The sandbox is silent: its attempt should be replaced."""

    reason: str

    @property
    def kind(self) -> str:
        """See `Decision.kind`."""
        return UNRESPONSIVE


def id_from(prefix: Prefix, *facts: object) -> str:
    """The id that these facts give, in every replay."""
    return derived_id(prefix, sha256(encode([str(fact) for fact in facts])).digest())


def read_decision(record: GuardianRecord) -> Decision:
    """The body of a decision record."""
    types: dict[str, type[Decision]] = {FINDING: FindingDecision, ISSUED: Issued, UNRESPONSIVE: Unresponsive}
    return decode(bytes(record.body), types.get(record.kind, Reached))
