"""Texts of agents, clients and services cannot control the user's terminal, and reach a pipe unchanged."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import structlog
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from muster.cli.commands.agent.events import _line as agent_line  # pyright: ignore[reportPrivateUsage] - what the command prints
from muster.cli.commands.agent.logs import LogLinePrinter
from muster.cli.commands.agent.message import print_reply
from muster.cli.commands.api import _print as print_answer  # pyright: ignore[reportPrivateUsage]
from muster.cli.commands.stack.detached import startup_error
from muster.cli.console.event_line import event_line
from muster.cli.console.output import (
    OutputFormat,
    TableLayout,
    describe,
    emit,
    emit_rows,
    fail,
    json_text,
    say,
    write_raw,
)
from muster.cli.demo import progress_view as demo
from muster.client.feed_items import AGENT_FEED, FeedItem
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.agent_logs import AgentLogPage, LogLine
from muster.common.contracts.agents import AgentChanged
from muster.common.contracts.feed import FeedEvent
from muster.common.logs import log_to_stderr
from muster.common.terminal import one_line, printable, printable_lines

HOSTILE = "a\x1b[2Jb\x1b]0;title\x07c\x9b31md\x7fe\u202ef\u2066g\rh\x00i"
COMMANDS = frozenset("\x1b\x07\x9b\x7f\u202e\u2066\r\x00")
DIFF = f"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-\told\n+\t{HOSTILE}\n"


def harmless(shown: str) -> bool:
    return bool(shown) and COMMANDS.isdisjoint(shown)


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make stdout a terminal; called in the test's body, because pytest uses other streams for fixtures."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")  # The colours of muster itself are terminal controls too.
    monkeypatch.setenv("TERM", "dumb")  # as is the bold of headers


@given(st.text())
def test_no_terminal_control_is_left_in_any_text(text: str):
    assert printable(text).isprintable()
    assert one_line(text).isprintable()
    assert all(part.isprintable() for part in printable_lines(text).replace("\t", " ").split("\n"))
    assert printable_lines(text).count("\n") == text.count("\n")


def event(kind: str) -> FeedEvent:
    return FeedEvent(
        source="log", kind=kind, at=utc_now(), task_id="tsk_1", sandbox_id=HOSTILE, body=msgspec.Raw(b"{}")
    )


def agent_changed() -> FeedItem[AgentChanged]:
    body = msgspec.Raw(encode({"reason": HOSTILE}))
    told = {"agent_id": "agt_1", "kind": HOSTILE, "event_id": "evt_1", "version": 1, "at": utc_now(), "state": "error"}
    told |= {"desired": "running"}
    return FeedItem("agent", "1", encode({**told, "body": body}), AGENT_FEED)


def log_page() -> AgentLogPage:
    at = utc_now()
    lines = [LogLine(position=1, n=0, at=at, launch=1, text=HOSTILE)]
    return AgentLogPage(agent_id="agt_1", lines=lines, next_cursor="c")


WRITERS: dict[str, Callable[[], object]] = {
    "event": lambda: sys.stdout.write(event_line(event(HOSTILE))),
    "agent event": lambda: sys.stdout.write(agent_line(agent_changed()) or ""),
    "diff": lambda: write_raw(DIFF),
    "answer": lambda: print_reply("ada", {"answer": HOSTILE}),
    "other answer": lambda: print_reply("ada", {"said": HOSTILE}),
    "log": lambda: LogLinePrinter("table", timestamps=False, raw=False).write(log_page()),
    "raw log": lambda: LogLinePrinter("table", timestamps=False, raw=True).write(log_page()),
    "table": lambda: emit_rows([{"name": HOSTILE, "why": HOSTILE}], "table", TableLayout(columns=("name", "why"))),
    "name": lambda: emit_rows([{"name": HOSTILE}], "name", TableLayout(columns=("name",))),
    "description": lambda: describe({"reason": HOSTILE}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_an_agent_says_does_not_command_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], write: Callable[[], object]
):
    on_a_terminal(monkeypatch)

    write()

    assert harmless(capsys.readouterr().out)


def test_markup_of_an_agent_is_shown_unchanged(capsys: pytest.CaptureFixture[str]):
    emit_rows([{"name": "[red]x[/red] :boom:"}], "table", TableLayout(columns=("name",)))

    assert "[red]x[/red] :boom:" in capsys.readouterr().out


def test_messages_on_stderr_do_not_control_a_terminal(capsys: pytest.CaptureFixture[str]):
    say(f"gap: {HOSTILE}\nfault: {HOSTILE}")
    with pytest.raises(SystemExit):
        fail(f"the API said {HOSTILE}")

    shown = capsys.readouterr().err
    assert harmless(shown)
    assert shown.count("\n") == 3


def test_last_lines_of_a_stack_contain_no_terminal_controls(monkeypatch: pytest.MonkeyPatch):
    on_a_terminal(monkeypatch)
    monkeypatch.delenv("NO_COLOR")

    assert harmless(startup_error('muster: {"event": "broke", "level": "error"}\n' + HOSTILE))


@pytest.mark.parametrize("live", [False, True])
def test_demo_shows_agents_texts_without_terminal_controls(live: bool):
    written = io.StringIO()
    console = Console(file=written, force_terminal=False, width=120)
    shown = demo.DemoScreen(console, lambda: 0.0, "model") if live else demo.ProgressLines(console, lambda: 0.0)

    with shown:
        shown.add_line("loop", HOSTILE)

    assert harmless(written.getvalue())


def test_output_of_an_agent_reaches_a_pipe_unchanged(capsys: pytest.CaptureFixture[str]):
    write_raw(DIFF)
    LogLinePrinter("table", timestamps=False, raw=True).write(log_page())
    print_reply("ada", {"answer": HOSTILE})

    assert capsys.readouterr().out == f"{DIFF}{HOSTILE}\n{HOSTILE}\n"


@pytest.mark.parametrize("form", ["json", "jsonl", "yaml"])
@given(text=st.text())
def test_json_and_yaml_contain_no_terminal_controls_and_keep_the_value(form: OutputFormat, text: str):
    written, usual = io.StringIO(), sys.stdout
    sys.stdout = written
    try:
        emit({"text": text + HOSTILE, "größe": 1}, form)
    finally:
        sys.stdout = usual

    shown = written.getvalue()
    assert harmless(shown)
    read: Any = yaml.safe_load(shown) if form == "yaml" else json.loads(shown)
    assert read == {"text": text + HOSTILE, "größe": 1}


def test_letters_of_any_script_stay_readable_in_json():
    assert json_text(encode({"ä": "語 é"})) == '{"ä":"語 é"}'


@pytest.mark.parametrize(
    ("kind", "on_terminal"), [("text/event-stream", True), ("text/event-stream", False), ("application/json", False)]
)
def test_response_of_any_route_is_cleaned_only_for_a_terminal(
    monkeypatch: pytest.MonkeyPatch, kind: str, on_terminal: bool
):
    body = encode({"said": "é" + HOSTILE}) if "json" in kind else f"data: é{HOSTILE}\n".encode()
    written = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(written, "isatty", lambda: on_terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", written)

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(len(body)):
            yield body[at : at + 1]

    asyncio.run(print_answer(kind, chunks()))
    shown = written.buffer.getvalue()  # type: ignore[attr-defined]

    if "json" in kind:
        assert harmless(shown.decode())
        assert json.loads(shown) == json.loads(body)
    else:
        assert "é" in shown.decode()
        assert harmless(shown.decode()) if on_terminal else shown == body


def test_watched_log_line_contains_no_terminal_controls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    before = structlog.get_config()
    try:
        log_to_stderr("test")
        structlog.get_logger().warning("refused", error="x\x9b2J\u202e\x07", other=HOSTILE, many=[HOSTILE])
        shown = capsys.readouterr().err
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.configure(**before)

    assert "refused" in shown
    assert COMMANDS.difference("\x1b").isdisjoint(shown)
    assert "\x1b[2J" not in shown
    assert "\x1b]0;" not in shown
