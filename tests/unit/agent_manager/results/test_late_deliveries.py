"""Which later requests to deliver a result are accepted, and which branch, title and commit they lead to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from muster.agent_manager.results.domain.deliveries import is_overdue, later_delivery, undeliverable
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.common.contracts.task_spec import Deliver, Repo, TaskSpec
from muster.common.contracts.tasks import Delivery
from muster.common.faults import Conflict, Fault, Forbidden, InvalidMessage

AT = datetime(2026, 11, 30, 12, 0, 0, 123, tzinfo=UTC)
ACCEPTED = AT.replace(microsecond=0)
LATER = AT + timedelta(hours=5)
SPEC = TaskSpec(objective="Mend it", repo=Repo(url="https://g/a"))


def task(delivery: Delivery | None = None, deliver: Deliver | None = None, **fields: Any) -> TaskRecord:
    told: dict[str, Any] = {
        "task_id": "tsk_1",
        "agent_id": None,
        "wanted_agent_id": None,
        "package": "echo",
        "model": "m",
        "spec": msgspec.structs.replace(SPEC, deliver=deliver),
        "project": "default",
        "state": "completed",
        "version": 9,
        "epoch": 1,
        "sandbox_id": None,
        "conversation_id": None,
        "persistence_dir": None,
        "created_at": AT,
        "updated_at": AT,
        "diff": "+1",
        "base_commit": "b" * 40,
        "delivery": delivery,
    }
    return TaskRecord(**told | fields)


def stored(state: Any, **fields: Any) -> Delivery:
    return Delivery(state=state, branch="muster/tsk_1", accepted_at=ACCEPTED, **fields)


def test_first_request_names_the_branch_and_the_commit_has_the_time_of_the_acceptance() -> None:
    found = later_delivery(task(), Deliver(pull_request=True), now=LATER)
    wanted = Delivery(state="pending", branch="muster/tsk_1", accepted_at=ACCEPTED, asked_at=LATER)
    assert found == (Deliver(pull_request=True), wanted)
    assert not is_overdue(wanted, LATER + timedelta(minutes=59))
    assert is_overdue(wanted, LATER + timedelta(minutes=61))


@pytest.mark.parametrize("state", ["pending", "delivered"])
def test_repeated_request_changes_nothing(state: str) -> None:
    before = task(stored(state), Deliver(pull_request=True, title="Mended"))
    for asked in (Deliver(), Deliver(pull_request=True, title="Mended", branch="muster/tsk_1")):
        assert later_delivery(before, asked, now=LATER) is None


@pytest.mark.parametrize("state", ["pending", "delivered", "failed"])
def test_second_branch_and_second_title_are_refused(state: str) -> None:
    before = task(stored(state), Deliver(title="Mended"))
    for asked in (Deliver(branch="another"), Deliver(title="Another")):
        with pytest.raises(Conflict, match=r"leave the (branch|title) out"):
            later_delivery(before, asked, now=LATER)


def test_failed_delivery_keeps_its_commit_and_gets_another_branch_only_if_nothing_was_pushed() -> None:
    failed = stored("failed", error="no right")
    _, again = later_delivery(task(failed, Deliver(title="Mended")), Deliver(), now=LATER) or (None, None)
    assert again == stored("pending", asked_at=LATER)
    unpushed = msgspec.structs.replace(failed, unpushed=True)
    found = later_delivery(task(unpushed), Deliver(branch="another"), now=LATER)
    assert found is not None
    assert (found[1].branch, found[1].unpushed) == ("another", False)


@pytest.mark.parametrize(
    ("why", "unpushed"),
    [
        (InvalidMessage("taken", field="$.deliver.branch"), True),
        (Forbidden("no pull request"), False),
        ("no base", False),
    ],
)
def test_failure_says_whether_the_branch_was_refused(why: Fault | str, *, unpushed: bool) -> None:
    assert undeliverable(stored("pending"), why) == stored("failed", error=str(why), unpushed=unpushed)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"state": "running"}, "no accepted result to deliver"),
        ({"state": "failed"}, "no accepted result to deliver"),
        ({"state": "cancelled", "delivery": stored("pending")}, "no accepted result to deliver"),
        ({"spec": TaskSpec(objective="o")}, "no repository"),
        ({"diff": " "}, "changes no file"),
        ({"base_commit": None}, "did not name the commit"),
    ],
)
def test_task_without_a_deliverable_result_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Conflict, match=says):
        later_delivery(task(**fields), Deliver(), now=LATER)
