"""The requests to the guardian, the records of its log, and the events that it publishes."""

from datetime import datetime
from typing import Any, Literal

import msgspec

from muster.common.contract import Command, Event, Message, raw

InterventionStage = Literal["issued", "stored", "delivered", "seen", "outcome", "expired", "unknown"]


class Receipt(Message):
    """One stage of a steering message, and the log event that proves the stage."""

    stage: InterventionStage
    at: datetime
    cites: str
    detail: str | None = None


class InterventionView(Message):
    """One steering message with its stages and its outcome."""

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
    """Send a steering message to the live attempt of a task or of an agent. Idempotent by `message_id`."""

    message_id: str
    target: str
    text: str
    sender: str
    urgent: bool = False


class FindingView(Message):
    """A problem that the guardian found in a task, and the seqs of the events that show it."""

    finding_id: str
    detector: str
    task_id: str
    sandbox_id: str
    epoch: int
    at: datetime
    seqs: list[int]
    summary: str


class GuardianReport(Message):
    """The findings and interventions of a task. Long texts are shortened if the report would not fit into one reply."""

    task_id: str
    findings: list[FindingView]
    interventions: list[InterventionView]


class GetReport(Command[GuardianReport], subject="guardian.query.report"):
    """Return the findings and interventions of a task, rebuilt from the logs."""

    task_id: str


class GuardianRecord(Message):
    """One record of `guardian.log.<sandbox_id>`: an input or a decision of the guardian, in the order of processing.

    `after_seq` is the `next` of the sandbox log when the guardian took the input. `after_position` is the stream
    position of the last frame before the input. Frames without events (`seen`, `finished`, …) do not change `next`, but
    the guardian must be able to repeat the exact order. `n` counts records from 1. `guardian_epoch` is the fencing
    number of the leader that wrote the record.
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
    """A decision of the guardian, published from the guardian's log for subscribers. Stream `GUARDIAN`."""

    kind: str
    task_id: str
    sandbox_id: str
    epoch: int
    event_id: str
    at: datetime
    seqs: list[int] = []
    body: dict[str, Any] = {}
