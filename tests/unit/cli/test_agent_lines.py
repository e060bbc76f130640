"""Formats of an agent's log lines, answers and metrics on a terminal."""

import sys
from datetime import timedelta

import msgspec
import pytest

from muster.cli.commands.agent.events import _line as change_line  # pyright: ignore[reportPrivateUsage] - what the command prints
from muster.cli.commands.agent.logs import LogLinePrinter
from muster.cli.commands.agent.message import print_reply
from muster.cli.commands.agent.status import numbers
from muster.cli.commands.task.outcome import why_it_ended
from muster.cli.console.agent_log_lines import readable_lines
from muster.client.feed_items import AGENT_FEED, FeedItem
from muster.common.clock import rfc3339, utc_now
from muster.common.contract import encode
from muster.common.contracts.agent_logs import AgentLogPage, LogLine
from muster.common.contracts.tasks import AttemptView, TaskView


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("plain\ttext \x1b[2J", ["plain    text  [2J"]),
        ("", [""]),
        ("{not json", ["{not json"]),
        ('{"event": 7}', ['{"event": 7}']),
        ('{"a": 1}', ['{"a": 1}']),
        (
            '{"at":"2026-11-21T08:05:59.8Z","level":"info","logger":"x","event":"echoed","text":"a b","n":1,"no":null}',
            ['info     echoed  text="a b"  n=1'],
        ),
        (
            '{"level":"error","event":"broke","exception":"Traceback:\\n  line\\n"}',
            ["error    broke", "  Traceback:", "    line"],
        ),
    ],
)
def test_plain_line_is_shown_unchanged_and_a_json_record_as_text(written: str, shown: list[str]):
    assert readable_lines(written) == shown


@pytest.mark.parametrize(
    ("said", "out", "err"),
    [
        ({"state": "answered", "answer": "You said: hi"}, "You said: hi\n", ""),
        ({"state": "accepted", "answer": None}, "", "ada accepted the message and works on it"),
        ({"state": "accepted", "message_id": "msg_1", "confirmed": False}, "", "ada has not confirmed the message yet"),
        ({"state": "answered", "answer": None}, "", "sent no answer"),
        ({"state": "answered", "message_id": "msg_1"}, "", "sent no answer"),
        ({"state": "failed", "error": {"detail": "KeyError: 'x'"}}, "", "ada failed to answer: KeyError: 'x'"),
        ({"state": "lost", "error": {"detail": "agent ada died (exit 1)"}}, "", "muster: agent ada died (exit 1)"),
        ({"pong": True}, '{"pong":true}\n', ""),
    ],
)
def test_answer_is_printed_as_text_only(
    said: dict[str, object], out: str, err: str, capsys: pytest.CaptureFixture[str]
):
    print_reply("ada", said)

    shown = capsys.readouterr()
    assert shown.out == out
    assert err in shown.err


RECORDS = AgentLogPage(
    agent_id="agt_1",
    lines=[
        LogLine(position=7, n=4, launch=1, at=utc_now(), text="before"),
        LogLine(
            position=8,
            n=0,
            launch=1,
            at=utc_now(),
            text="114,224 lines dropped (over 128 KiB/s)",
            kind="dropped",
            dropped_lines=114_224,
            dropped_bytes=7_000_000,
        ),
        LogLine(position=8, n=0, launch=1, at=utc_now(), text="launch 1 ended: exited with 3", kind="ended"),
    ],
    next_cursor="c",
)


def test_missing_lines_and_the_end_of_a_launch_are_shown_at_their_place(capsys: pytest.CaptureFixture[str]):
    LogLinePrinter("table", timestamps=False, raw=False).write(RECORDS)
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[2] for line in shown] == [
        "before",
        "… 114,224 lines dropped (over 128 KiB/s)",
        "— launch 1 ended: exited with 3",
    ]


def test_raw_log_has_only_the_agents_lines_and_json_has_records_of_each_kind(capsys: pytest.CaptureFixture[str]):
    LogLinePrinter("table", timestamps=False, raw=True).write(RECORDS)
    shown = capsys.readouterr()
    assert (shown.out, "114,224 lines dropped" in shown.err) == ("before\n", True)
    LogLinePrinter("jsonl", timestamps=False, raw=False).write(RECORDS)
    records = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["kind"], record["dropped_lines"]) for record in records] == [
        ("output", 0),
        ("dropped", 114_224),
        ("ended", 0),
    ]


def test_metric_has_its_time_and_is_shown_once():
    at = rfc3339(utc_now() - timedelta(seconds=200))
    found = {"at": at, "metrics": {"uptime_s": 1.0, "echoed": 2.0}, "counted": {"uptime_s": 9.0, "launches": 1.0}}

    rows = {row["metric"]: (row["value"], row["as_of"], row["by"]) for row in numbers(found)}

    assert rows == {
        "echoed": (2.0, at, "the agent"),
        "uptime_s": (9.0, None, "Muster"),
        "launches": (1.0, None, "Muster"),
    }


@pytest.mark.parametrize(
    ("state", "error", "tries", "told"),
    [
        ("failed", "the worker reported timeout", 3, "The task failed after 3 attempts: the worker reported timeout"),
        ("failed", "no such ref", 1, "The task failed: no such ref"),
        ("cancelled", None, 1, "The task is cancelled."),
    ],
)
def test_end_message_of_a_task_names_its_attempts_and_its_error(state: str, error: str | None, tries: int, told: str):
    at = rfc3339(utc_now())
    attempt = AttemptView(attempt_id="att_1", epoch=1, sandbox_id="sbx_1", state="finished", created_at=utc_now())
    fields = {name: name for name in ("task_id", "package", "model", "objective", "project")}
    fields |= {"created_at": at, "updated_at": at, "priority": "NORMAL", "labels": {}, "timeout_s": 60.0, "version": 1}
    fields |= {"agent_id": None, "repo": None, "test_command": None, "state": state, "error": error}
    view = msgspec.structs.replace(msgspec.convert(fields, TaskView), attempts=[attempt] * tries)

    assert why_it_ended(view).startswith(told)


def test_long_reason_of_a_change_is_wrapped_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    reason = "the process ended " + "again " * 30 + "with exit code 7"
    body = {"agent_id": "agt_1", "kind": "failed", "event_id": "evt_1", "version": 1, "at": utc_now(), "state": "error"}
    sent = FeedItem("agent", "1", encode({**body, "desired": "running", "body": {"reason": reason}}), AGENT_FEED)

    lines = (change_line(sent) or "").splitlines()

    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()).endswith(reason)
