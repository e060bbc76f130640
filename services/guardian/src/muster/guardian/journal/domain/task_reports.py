"""Converts records of the guardian's log to findings and interventions for reports, and to events for publication."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from muster.common.contract import encode
from muster.common.contracts.guardian import (
    FindingView,
    GuardianRecord,
    GuardianReport,
    GuardianTold,
    InterventionStage,
    InterventionView,
    Receipt,
)
from muster.common.contracts.limits import MOST_PAGE_BYTES, SHORT_TEXT
from muster.guardian.journal.domain.decisions import Decision, FindingDecision, Issued, Reached, read_decision

_ORDER: Sequence[InterventionStage] = ("issued", "stored", "delivered", "seen", "outcome", "expired", "unknown")


class ReportedAttempt(msgspec.Struct, frozen=True):
    """The attempt of a task whose findings and interventions one log of the guardian contains."""

    task_id: str
    sandbox_id: str
    epoch: int


def findings(records: Sequence[GuardianRecord], attempt: ReportedAttempt) -> list[FindingView]:
    """Return the guardian's findings about an attempt, in the order in which they were made."""
    return [
        FindingView(
            finding_id=made.id,
            detector=made.detector,
            task_id=attempt.task_id,
            sandbox_id=attempt.sandbox_id,
            epoch=attempt.epoch,
            at=at,
            seqs=made.seqs,
            summary=made.summary,
        )
        for made, at in _decisions(records)
        if isinstance(made, FindingDecision)
    ]


def interventions(records: Sequence[GuardianRecord], attempt: ReportedAttempt) -> list[InterventionView]:
    """Return the interventions in the order of their issue, each with the stages that its message has reached."""
    made = _decisions(records)
    reached = [(one, at) for one, at in made if isinstance(one, Reached)]
    return [_view(issued, at, reached, attempt) for issued, at in made if isinstance(issued, Issued)]


def shortened_to_fit(report: GuardianReport) -> GuardianReport:
    """Return the report, with long texts shortened if the report does not fit into one reply."""
    if len(encode(report)) <= MOST_PAGE_BYTES:
        return report
    return msgspec.structs.replace(
        report,
        findings=[msgspec.structs.replace(one, summary=_shortened(one.summary)) for one in report.findings],
        interventions=[msgspec.structs.replace(one, text=_shortened(one.text)) for one in report.interventions],
    )


def _shortened(text: str) -> str:
    return text if len(text) <= SHORT_TEXT else f"{text[: SHORT_TEXT - 1]}…"


def as_event(record: GuardianRecord, attempt: ReportedAttempt) -> GuardianTold:
    """Return the event that announces a recorded decision."""
    decision = read_decision(record)
    return GuardianTold(
        kind=record.kind,
        task_id=attempt.task_id,
        sandbox_id=attempt.sandbox_id,
        epoch=attempt.epoch,
        event_id=decision.id,
        at=record.at,
        seqs=decision.seqs,
        body=msgspec.json.decode(record.body),
    )


def _decisions(records: Sequence[GuardianRecord]) -> list[tuple[Decision, datetime]]:
    return [(read_decision(record), record.at) for record in records if record.role == "decision"]


def _view(
    issued: Issued, at: datetime, reached: Sequence[tuple[Reached, datetime]], attempt: ReportedAttempt
) -> InterventionView:
    mine = [(one, at) for one, at in reached if one.message_id == issued.message_id]
    receipts = [Receipt(stage="issued", at=at, cites=issued.cites)]
    receipts += [
        Receipt(stage=one.stage, at=at, cites=one.cites, detail=one.outcome or one.detail)
        for one, at in sorted(mine, key=lambda pair: _ORDER.index(pair[0].stage))
    ]
    return InterventionView(
        message_id=issued.message_id,
        task_id=attempt.task_id,
        sandbox_id=attempt.sandbox_id,
        epoch=attempt.epoch,
        finding_id=issued.finding_id,
        text=issued.text,
        sender=issued.sender,
        stage=receipts[-1].stage,
        outcome=next((one.outcome for one, _ in mine if one.outcome), None),
        receipts=receipts,
    )
