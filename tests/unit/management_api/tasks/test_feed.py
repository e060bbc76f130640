"""A task's feed: its cursor, and the condition for its end."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from muster.common.clock import utc_now
from muster.common.contracts.tasks import TaskChanged, TaskState
from muster.management_api.tasks.domain.feed_end import FeedEnd
from muster.management_api.tasks.domain.task_cursor import LogPosition, TaskCursor

NOW = utc_now()


COUNTS = st.integers(min_value=0, max_value=2**63 - 1)


TOKENS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


LOGS = st.dictionaries(TOKENS, st.builds(LogPosition, frame=COUNTS, taken=COUNTS), max_size=5)


@given(st.builds(TaskCursor, task_id=TOKENS, tasks=COUNTS, guardian=COUNTS, logs=LOGS))
def test_position_is_decoded_from_its_token(position: TaskCursor):
    assert TaskCursor.parse(position.token(), position.task_id) == position
    assert TaskCursor.parse(position.token(), f"{position.task_id}x") is None


@given(st.one_of(st.text(), st.text(alphabet="abcdefghijABCDEFGHIJ0123456789-_="), st.binary().map(str)))
def test_invalid_token_is_no_position(text: str):
    assert TaskCursor.parse(text, "tsk_1") is None


def test_a_token_cannot_smuggle_a_wildcard_into_a_subject():
    assert TaskCursor.parse(TaskCursor(task_id="tsk_1", logs={"a.>": LogPosition()}).token(), "tsk_1") is None


def _changed(state: TaskState, version: int, age_s: float = 0.0) -> TaskChanged:
    at = NOW - timedelta(seconds=age_s)
    return TaskChanged(task_id="tsk_1", kind=state, event_id="evt_1", version=version, at=at, state=state)


def test_feed_ends_half_a_second_after_the_task_and_its_logs_have_ended():
    ending = FeedEnd()
    ending.follows("sbx_1")
    ending.told(_changed("running", 1))
    assert not ending.reached(NOW + timedelta(days=1), quiet_s=60)

    ending.told(_changed("completed", 2))
    assert not ending.reached(NOW, quiet_s=60)  # the log is still open

    ending.log_ended("sbx_1")
    assert not ending.reached(NOW, quiet_s=0.1)  # The guardian may still send an event.
    assert ending.reached(NOW, quiet_s=0.6)


def test_feed_waits_five_seconds_for_a_log_without_end():
    ending = FeedEnd()
    ending.follows("sbx_1")
    ending.told(_changed("failed", 1))

    assert not ending.reached(NOW + timedelta(seconds=4), quiet_s=4)
    assert ending.reached(NOW + timedelta(seconds=5), quiet_s=0)


def test_an_old_event_does_not_undo_a_newer_state():
    ending = FeedEnd()
    ending.told(_changed("completed", 5))
    ending.told(_changed("running", 4))

    assert ending.state == "completed"
