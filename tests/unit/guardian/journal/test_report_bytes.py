"""A report about a task fits into one reply, for any number of messages."""

from datetime import UTC, datetime

from muster.common.bus.service import MAX_REPLY_BYTES
from muster.common.contract import encode
from muster.common.contracts.guardian import GuardianReport, InterventionView, Receipt
from muster.common.contracts.limits import SHORT_TEXT
from muster.guardian.journal.domain.task_reports import shortened_to_fit

AT = datetime(2026, 11, 30, tzinfo=UTC)


def report(messages: int) -> GuardianReport:
    said = [
        InterventionView(
            message_id=f"msg_{number}",
            task_id="tsk_1",
            sandbox_id="sbx_1",
            epoch=1,
            finding_id=None,
            text="x" * 32_000,  # the longest text that the API accepts
            sender="user:alice",
            stage="issued",
            outcome=None,
            receipts=[Receipt(stage="issued", at=AT, cites="log")],
        )
        for number in range(messages)
    ]
    return GuardianReport(task_id="tsk_1", findings=[], interventions=said)


def test_long_texts_are_shortened_only_where_the_whole_report_would_not_fit() -> None:
    few, many = report(10), report(500)
    assert shortened_to_fit(few) == few

    shortened = shortened_to_fit(many)

    assert len(encode(many)) > MAX_REPLY_BYTES >= len(encode(shortened))
    assert [one.message_id for one in shortened.interventions] == [one.message_id for one in many.interventions]
    assert {one.text for one in shortened.interventions} == {"x" * (SHORT_TEXT - 1) + "…"}
