"""A delivery is given by options and shown as one line."""

from datetime import UTC, datetime
from typing import Any

import click
import msgspec
import pytest

from muster.cli.commands.task.outcome import exit_with
from muster.cli.commands.task.submission import submit
from muster.cli.commands.task_options import task_fields
from muster.cli.console.deliveries import delivery_line
from muster.cli.console.event_line import event_summary
from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.tasks import Delivery, TaskView

_AT = datetime(2026, 11, 30, tzinfo=UTC)


def fields(**options: Any) -> dict[str, Any]:
    nothing = {str(one.name): () if one.multiple else None for one in submit.params if isinstance(one, click.Option)}
    return task_fields(nothing | options)


def test_options_describe_the_delivery() -> None:
    asked = fields(repo="https://g/a", deliver="pr", branch="mended", title="Mend")["deliver"]
    assert (asked.push, asked.pull_request, asked.branch, asked.title) == (True, True, "mended", "Mend")
    assert not fields(repo="https://g/a", deliver="push")["deliver"].pull_request
    with pytest.raises(click.UsageError, match="--branch and --title need --deliver"):
        fields(repo="https://g/a", branch="mended")


@pytest.mark.parametrize(
    ("delivery", "line"),
    [
        (Delivery(state="pending", branch="b", accepted_at=_AT), "accepted; the result is being delivered"),
        (
            Delivery(state="delivered", branch="b", accepted_at=_AT, commit="c" * 40, url="https://g/1"),
            "delivered to the branch b (commit cccccccccccc): https://g/1",
        ),
        (Delivery(state="failed", branch="b", accepted_at=_AT, error="no"), "not delivered to the branch b: no"),
    ],
)
def test_delivery_is_shown_in_the_feed_of_its_task(delivery: Delivery, line: str) -> None:
    assert line in delivery_line(msgspec.to_builtins(delivery))
    body = {"summary": "did it", "delivery": delivery}
    state = {"pending": "validating", "delivered": "completed", "failed": "failed"}[delivery.state]
    event = FeedEvent(
        at=_AT,
        source="task",
        kind=state,
        task_id="tsk_1",
        state=state,
        body=msgspec.Raw(msgspec.json.encode(body)),
    )
    assert line in event_summary(event)


def test_task_without_delivery_shows_none() -> None:
    assert delivery_line(None) == ""


def test_branch_of_a_delivered_result_is_shown_at_the_end_of_a_wait(capsys: pytest.CaptureFixture[str]) -> None:
    branch = "muster/" + "b" * 60
    delivered = Delivery(state="delivered", branch=branch, accepted_at=_AT)
    fields = {name: name for name in ("task_id", "package", "model", "objective", "project")}
    fields |= {"created_at": _AT, "updated_at": _AT, "priority": "NORMAL", "labels": {}, "timeout_s": 60.0}
    fields |= {"agent_id": None, "repo": None, "test_command": None, "version": 1, "state": "completed"}
    exit_with([msgspec.convert(fields | {"delivery": delivered}, TaskView)])
    assert capsys.readouterr().err == f"delivered to the branch {branch}\n"
