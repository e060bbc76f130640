"""The status line of a waiting command, derived from the events of a task's feed."""

from collections.abc import Sequence
from datetime import timedelta
from functools import reduce

import pytest

from muster.cli.console.awaited_work import AwaitedWork, after_event, status_text
from muster.common.contracts.feed import FeedEvent
from tests.support.feed_events import MODEL_FAILED, acted, feed_event, observed, said
from tests.support.sandbox_script import BEGAN

QUEUED = feed_event("queued", source="task", epoch=None)
OPENED = feed_event("opened", {"package": "openhands", "model": "openai/x"}, after_s=3)
OBJECTIVE = said("fix it", origin="user", after_s=5)


def shown(events: Sequence[FeedEvent], *, at_s: float) -> str:
    return status_text(reduce(after_event, events, AwaitedWork()), BEGAN + timedelta(seconds=at_s))


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([], "waiting for the first event · 0 s"),
        ([QUEUED], "queued · 19 s"),
        ([feed_event("blocked", source="task", epoch=None)], "blocked by the tasks that it depends on · 19 s"),
        ([QUEUED, feed_event("assigned", source="task", after_s=2)], "the sandbox starts · 17 s"),
        ([QUEUED, OPENED], "attempt 1 · the worker starts · 16 s"),
        ([OPENED, OBJECTIVE], "attempt 1 · waiting for the model openai/x · 14 s"),
        ([feed_event("opened", {"model": "none"}), OBJECTIVE], "attempt 1 · waiting for the agent · 14 s"),
        ([OBJECTIVE], "attempt 1 · waiting for the model · 14 s"),
        ([OPENED, OBJECTIVE, acted("pytest -q", after_s=11)], "running: pytest -q · 8 s"),
        (
            [OPENED, acted("a", after_s=6), observed("b", after_s=7)],
            "attempt 1 · waiting for the model openai/x · 12 s",
        ),
        (
            [OPENED, feed_event("ActionEvent", {"action": {"message": "Done."}}, seq=7, after_s=9)],
            "attempt 1 · the agent ends · 10 s",
        ),
        ([OPENED, feed_event("finished", {"outcome": "success"}, after_s=9)], "checking the result · 10 s"),
        (
            [OPENED, OBJECTIVE, feed_event("model_failed", MODEL_FAILED, after_s=9)],
            "attempt 1 · the model m failed (try 2), no further call · 10 s",
        ),
        ([OPENED, feed_event("fenced", {"reason": "silent"}, after_s=9)], "waiting for a new attempt · 10 s"),
        ([OPENED, feed_event("retrying", source="task", after_s=9)], "queued for a new attempt · 10 s"),
        ([OPENED, feed_event("completed", source="task", after_s=9)], "waiting for the last events · 10 s"),
    ],
)
def test_status_line_names_what_is_awaited_and_since_when(events: list[FeedEvent], told: str):
    assert shown(events, at_s=19) == told


def test_event_of_the_guardian_changes_neither_the_work_nor_its_time():
    finding = feed_event("finding", {"summary": "loop"}, source="guardian", after_s=12)

    assert shown([OPENED, OBJECTIVE, finding], at_s=19) == shown([OPENED, OBJECTIVE], at_s=19)


def test_long_wait_is_told_in_minutes_and_a_clock_that_is_behind_shows_no_negative_time():
    assert shown([QUEUED], at_s=135) == "queued · 2 min 15 s"
    assert shown([QUEUED], at_s=-9) == "queued · 0 s"


def test_second_attempt_is_told_by_its_number():
    opened = feed_event("opened", {"model": "m"}, epoch=2)

    assert shown([OPENED, OBJECTIVE, opened], at_s=0).startswith("attempt 2 · the worker starts")
