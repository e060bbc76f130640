"""The live view of the demo is folded from the feed of each task."""

from datetime import UTC, datetime
from io import StringIO
from typing import Any

import msgspec
from rich.console import Console

from muster.cli.demo.cases import CRASH, LOOP
from muster.cli.demo.progress_view import DemoScreen, ProgressLines
from muster.cli.demo.task_progress import TaskProgress, action_text, step_text
from muster.common.contracts.feed import FeedEvent, FeedSource


def event(source: FeedSource, kind: str, body: dict[str, Any] | None = None, **fields: Any) -> FeedEvent:
    raw = msgspec.Raw(msgspec.json.encode(body))
    return FeedEvent(
        source=source, kind=kind, at=datetime(2026, 11, 21, tzinfo=UTC), task_id="tsk_1", body=raw, **fields
    )


def terminal(command: str, thought: str = "") -> dict[str, Any]:
    return {"tool_name": "terminal", "action": {"command": command}, "thought": [{"type": "text", "text": thought}]}


def test_action_is_shown_with_its_thought() -> None:
    assert step_text(terminal("cd /w/x && python3 -m unittest -q", "Again.")) == "Again. [$ python3 -m unittest -q]"
    editor: dict[str, Any] = {"tool_name": "file_editor", "action": {"command": "view", "path": "/w/x/slugs.py"}}
    assert step_text(editor) == "view slugs.py"
    assert len(action_text(terminal("x" * 500))) < 100


def test_second_attempt_counts_as_a_restart_and_its_actions_start_at_zero() -> None:
    progress = TaskProgress(CRASH)
    progress.add_event(event("log", "opened", {}, epoch=1, sandbox_id="sbx_1"))
    progress.add_event(event("log", "ActionEvent", terminal("ls"), epoch=1, seq=3))
    assert (progress.actions, progress.restarts) == (1, 0)
    fenced = progress.add_event(event("log", "fenced", {"reason": "exit -9"}, epoch=1))
    assert fenced
    assert "exit -9" in fenced

    told = progress.add_event(event("log", "opened", {}, epoch=2, sandbox_id="sbx_2"))

    assert told == "attempt 2 in sandbox sbx_2"
    assert (progress.actions, progress.restarts, progress.events, progress.sandbox_id) == (0, 1, 1, "sbx_2")


def test_state_is_shown_once() -> None:
    progress = TaskProgress(LOOP)

    assert progress.add_event(event("task", "running", state="running")) == "the task is running"
    assert progress.add_event(event("task", "running", state="running")) is None
    assert not progress.ended
    progress.add_event(event("task", "completed", state="completed"))
    assert progress.ended


def test_unusual_event_bodies_are_accepted() -> None:
    progress = TaskProgress(LOOP)
    nothing: dict[str, Any] = {}
    for body in (None, nothing):
        for kind in ("ActionEvent", "MessageEvent", "AgentErrorEvent"):
            progress.add_event(event("log", kind, body, seq=1))
        for kind in ("opened", "fenced", "finished", "seen", "gap"):
            progress.add_event(event("log", kind, body))
        progress.add_event(event("guardian", "finding", body))
        progress.add_event(event("guardian", "something-new", body))


def test_live_table_shows_each_task_and_the_latest_lines() -> None:
    seen, clock = StringIO(), iter(range(1000))
    console = Console(file=seen, width=160, force_terminal=True, color_system=None)
    progress = TaskProgress(LOOP)
    progress.add_event(event("task", "running", state="running"))
    with DemoScreen(console, lambda: next(clock), "scripted model") as screen:
        screen.watch([progress])
        screen.add_line("loop", "the guardian finds: the same action again")

    assert "loop" in seen.getvalue()
    assert "running" in seen.getvalue()
    assert "the same action again" in seen.getvalue()


def test_without_a_terminal_there_are_plain_lines() -> None:
    seen = StringIO()
    with ProgressLines(Console(file=seen, width=20), lambda: 1.5) as lines:
        lines.add_line("crash", "worker 42 [killed] " + "x" * 40)

    assert seen.getvalue() == "   0.0 s  crash   worker 42 [killed] " + "x" * 40 + "\n"


def test_lines_are_never_silent_for_three_seconds_while_a_task_runs() -> None:
    clock_s, printed = [0.0], StringIO()
    view = ProgressLines(Console(file=printed, width=200), lambda: clock_s[0])
    starting, ended = TaskProgress(LOOP), TaskProgress(CRASH)
    starting.doing, ended.state = "the worker starts", "completed"
    view.tick()
    assert printed.getvalue() == ""
    clock_s[0] = 2.4
    view.tick()
    assert printed.getvalue().endswith("still working\n")

    view.watch([starting, ended])
    for clock_s[0] in (3.0, 4.0, 4.3):
        view.tick()
    assert printed.getvalue().count("\n") == 1
    clock_s[0] = 4.5
    view.tick()
    assert printed.getvalue().splitlines()[1:] == ["   4.5 s  …       loop: the worker starts"]


def test_failed_model_call_is_shown_with_its_kind_and_whether_it_is_repeated() -> None:
    progress = TaskProgress(LOOP)
    body = {"request_id": "r", "model": "local", "provider": "hosted_vllm", "kind": "server_error"}
    body |= {"status": 500, "error": "CUDA out of memory", "tries": 3}

    told = progress.add_event(event("log", "model_failed", {**body, "retry_at": "2026-11-21T00:00:05Z"}, epoch=1))
    last = progress.add_event(event("log", "model_failed", body, epoch=1))

    assert told
    assert last
    assert "local" in told
    assert "server error 500" in told
    assert "CUDA out of memory" in told
    assert "next try at" in told
    assert "next try at" not in last
    assert progress.doing == "the model fails"


def test_failed_model_call_of_a_later_release_is_left_out() -> None:
    assert TaskProgress(LOOP).add_event(event("log", "model_failed", {"new": 1}, epoch=1)) is None
