"""Formats of an agent's log lines, answers and metrics on a terminal."""

from datetime import timedelta

import msgspec
import pytest

from muster.cli.commands.agent.lifecycle import print_reply
from muster.cli.commands.agent.status import numbers
from muster.cli.commands.task import why_it_ended
from muster.cli.console.agent_log_lines import readable_lines
from muster.common.clock import rfc3339, utc_now
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
        ({"state": "answered", "answer": None}, "", "sent no answer"),
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
def test_end_message_of_a_task_names_its_attempts_and_time_limit(state: str, error: str | None, tries: int, told: str):
    at = rfc3339(utc_now())
    attempt = AttemptView(attempt_id="att_1", epoch=1, sandbox_id="sbx_1", state="finished", created_at=utc_now())
    fields = {name: name for name in ("task_id", "package", "model", "objective", "project")}
    fields |= {"created_at": at, "updated_at": at, "priority": "NORMAL", "labels": {}, "timeout_s": 60.0, "version": 1}
    fields |= {"agent_id": None, "repo": None, "test_command": None, "state": state, "error": error}
    view = msgspec.structs.replace(msgspec.convert(fields, TaskView), attempts=[attempt] * tries)

    assert why_it_ended(view).startswith(told)
    assert ("60 s" in why_it_ended(view)) is ("timeout" in told)
