"""How the client reads a feed, and how one event looks on one line."""

from collections.abc import AsyncIterator
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cli.client.sse import sent_events
from muster.cli.console.event_line import MOST_CHARS, event_summary
from muster.cli.console.table import print_table
from muster.common.clock import utc_now
from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.tasks import TaskState
from muster.common.ids import new_id

STREAM = b'retry: 1000\n: muster\n\nid: a\nevent: log\ndata: {"x":1}\n\n: still here\n\nid: b\nevent: end\ndata: {}\n\nid: c\nevent: cut'


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM)), max_size=8))
async def test_events_are_whole_however_the_bytes_arrive(cuts: list[int]):
    places = [0, *sorted(cuts), len(STREAM)]

    async def chunks() -> AsyncIterator[bytes]:
        for start, end in pairwise(places):
            yield STREAM[start:end]

    got = [(event.name, event.id, event.body) async for event in sent_events(chunks())]

    assert got == [("log", "a", b'{"x":1}'), ("end", "b", b"{}")]


def _event(body: object) -> FeedEvent:
    raw = msgspec.Raw(msgspec.json.encode(body))
    return FeedEvent(source="log", kind="ActionEvent", at=utc_now(), task_id="tsk_1", body=raw)


def test_the_gist_of_an_action_is_its_command():
    body = {
        "tool_name": "terminal",
        "thought": [{"type": "x"}],
        "action": {"command": "pytest -q\n", "kind": "TerminalAction"},
    }

    assert event_summary(_event(body)) == "pytest -q"


def test_the_gist_is_short_and_cannot_move_the_cursor():
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
def test_a_change_of_state_says_why_and_not_what_an_earlier_attempt_said(kind: TaskState, told: str):
    body = {"summary": "echoed", "error": "the test command failed\nbadly", "validation": "exit 1"}
    event = msgspec.structs.replace(_event(body), source="task", kind=kind, state=kind)

    assert event_summary(event) == told


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_keeps_its_ids_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int):
    monkeypatch.setenv("COLUMNS", str(width))
    row = {"task_id": new_id("tsk"), "state": "validating", "model": "m" * 30, "objective": "word " * 50}

    print_table([row, row], ("task_id", "state", "model", "objective"), spare=("model",))

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
def test_any_json_has_a_gist(body: object):
    assert "\n" not in event_summary(_event(msgspec.to_builtins(body)))
