"""The text of an event in `muster task watch`: errors are complete, and actions have their thoughts."""

import io

import pytest

from muster.cli.console.event_text import event_text
from muster.common.contracts.feed import FeedEvent
from tests.support.feed_events import acted, feed_event, observed

REASON = f"the sandbox could not be created: {'very ' * 40}long: no space left on the device"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize(
    "event",
    [
        feed_event("failed", {"error": REASON}, source="task"),
        feed_event("retrying", {"reason": REASON}, source="task"),
        feed_event("finished", {"outcome": "error", "error": REASON}),
        feed_event("ConversationErrorEvent", {"detail": REASON}, seq=4),
    ],
    ids=["failed", "retrying", "finished", "conversation error"],
)
def test_error_is_wrapped_and_never_cut(event: FeedEvent):
    lines = event_text(event, Terminal()).splitlines()

    assert max(map(len, lines)) <= 80
    assert len(lines) > 2
    assert all(line.startswith(" " * 10) for line in lines[1:])
    assert " ".join(" ".join(lines).split()).endswith(REASON)
    assert event_text(event, io.StringIO()).endswith(REASON), "a pipe has one line"
    assert "\n" not in event_text(event, io.StringIO())


def test_action_is_shown_with_its_thought():
    text = event_text(acted("pytest -q", thought="I look\nwhich test fails."), Terminal())

    assert text.splitlines()[0].endswith("pytest -q")
    assert text.splitlines()[1].strip() == "thought: I look which test fails."


def test_event_without_thought_and_error_is_one_line():
    for event in (acted("pytest -q"), observed("E " * 300), feed_event("completed", {"error": "old"}, source="task")):
        assert "\n" not in event_text(event, Terminal())
    assert "\n" not in event_text(acted("ls", thought="Hm."), Terminal(), thoughts=False)


def test_thought_and_error_contain_no_control_characters():
    for event in (acted("ls", thought="\x1b[2J"), feed_event("failed", {"error": "\x9b\x1b]0;x\x07"}, source="task")):
        assert event_text(event, Terminal()).replace("\n", "").isprintable()
