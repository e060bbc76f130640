"""What the guardian is asked, what it writes down, and what it tells."""

from datetime import datetime
from typing import Any, Literal

import msgspec

from muster.common.contract import Command, Event, Message, raw

InterventionStage = Literal["issued", "stored", "delivered", "seen", "outcome", "expired", "unknown"]


class Receipt(Message):
    """One stage of a steering message, and what in which log shows it."""

    stage: InterventionStage
    at: datetime
    cites: str
    detail: str | None = None


class InterventionView(Message):
    """One steering message with all that became of it."""

    message_id: str
    task_id: str
    sandbox_id: str
    epoch: int
    finding_id: str | None
    text: str
    sender: str
    stage: InterventionStage
    outcome: Literal["heeded", "ignored", "moot"] | None
    receipts: list[Receipt]


class Steer(Command[InterventionView], subject="guardian.command.steer"):
    """Say something to the live attempt of a task (or of an agent). Idempotent by `message_id`."""

    message_id: str
    target: str
    text: str
    sender: str
    urgent: bool = False


class FindingView(Message):
    """Trouble the guardian found, and the seqs it rests on."""

    finding_id: str
    detector: str
    task_id: str
    sandbox_id: str
    epoch: int
    at: datetime
    seqs: list[int]
    summary: str


class GuardianReport(Message):
    """All the guardian holds about a task. Long texts are shortened where the whole would not fit into one reply."""

    task_id: str
    findings: list[FindingView]
    interventions: list[InterventionView]


class GetReport(Command[GuardianReport], subject="guardian.query.report"):
    """The findings and interventions of a task, rebuilt from the logs."""

    task_id: str


class GuardianRecord(Message):
    """One record of `guardian.log.<sandbox_id>`: an input or a decision, in the order the fold took them.

    `after_seq` is the sandbox log's `next` when it was taken and `after_position` the stream position of the last frame
    before it: frames without events (`seen`, `finished`, …) do not move `next`, and the fold needs a total order.
    `n` counts from 1; `guardian_epoch` is the writer's.
    """

    n: int
    after_seq: int
    after_position: int = 0
    at: datetime
    kind: str
    role: Literal["input", "decision"]
    guardian_epoch: int
    body: msgspec.Raw = raw(b"{}")


class GuardianTold(Event, subject="guardian.event.{kind}.{task_id}"):
    """A decision as others may follow it, derived from the guardian's log. Stream `GUARDIAN`."""

    kind: str
    task_id: str
    sandbox_id: str
    epoch: int
    event_id: str
    at: datetime
    seqs: list[int] = []
    body: dict[str, Any] = {}
