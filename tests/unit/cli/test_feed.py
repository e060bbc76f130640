"""The line for one event of a feed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cli.console.event_line import MOST_CHARS, event_summary
from muster.cli.console.table import print_table
from muster.common.clock import utc_now
from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.tasks import TaskState
from muster.common.ids import new_id


def _event(body: object) -> FeedEvent:
    raw = msgspec.Raw(msgspec.json.encode(body))
    return FeedEvent(source="log", kind="ActionEvent", at=utc_now(), task_id="tsk_1", body=raw)


def test_summary_of_an_action_is_its_command():
    body = {
        "tool_name": "terminal",
        "thought": [{"type": "x"}],
        "action": {"command": "pytest -q\n", "kind": "TerminalAction"},
    }

    assert event_summary(_event(body)) == "pytest -q"


def test_summary_is_short_and_contains_no_control_characters():
    told = event_summary(_event({"text": "\x1b[2J" + "x" * 1000}))

    assert len(told) == MOST_CHARS
    assert "\x1b" not in told


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("running", ""),
        ("validating", "echoed"),
        ("retrying", "the test command failed"),
        ("queued", "the test command failed"),
        ("failed", "the test command failed"),
    ],
)
def test_state_change_shows_its_cause_and_no_text_of_an_earlier_attempt(kind: TaskState, told: str):
    body = {"summary": "echoed", "error": "the test command failed\nbadly", "validation": "exit 1"}
    event = msgspec.structs.replace(_event(body), source="task", kind=kind, state=kind)

    assert event_summary(event) == told


@pytest.mark.parametrize("width", [80, 120])
def test_table_shows_complete_ids(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int):
    monkeypatch.setenv("COLUMNS", str(width))
    row = {"task_id": new_id("tsk"), "state": "validating", "model": "m" * 30, "objective": "word " * 50}

    print_table([row, row], ("task_id", "state", "model", "objective"), dropped_first=("model",))

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert row["task_id"] in lines[1]
    assert "…" in lines[1]
    assert ("MODEL" in lines[0]) is (width == 120)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_has_a_summary(body: object):
    assert "\n" not in event_summary(_event(msgspec.to_builtins(body)))
