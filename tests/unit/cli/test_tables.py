"""Tables at 80 columns show complete ids and the requested columns."""

import io
from typing import Any

import pytest
from rich.console import Console

from muster.cli.commands.agent.listing import AGENTS
from muster.cli.commands.auth.audit import ENTRIES
from muster.cli.commands.auth.keys import KEYS
from muster.cli.commands.guardian import INTERVENTIONS
from muster.cli.commands.sandbox import SANDBOXES
from muster.cli.commands.task.tasks import ATTEMPTS, TASKS
from muster.cli.console.output import Row, TableLayout, emit_rows
from muster.cli.demo.proof import Proof
from muster.cli.demo.report import Report, StackReport, TaskReport
from muster.cli.demo.summary import show
from muster.common.ids import new_id

WIDTH = 80
NOW = "2026-11-21T09:39:56.000000Z"
STAGES = ("issued", "stored", "delivered", "seen", "outcome")
INTERVENTION: Row = {
    "message_id": new_id("msg"),
    "sandbox_id": new_id("sbx"),
    "epoch": 1,
    "sender": "guardian",
    "receipts": [{"stage": stage} for stage in STAGES],
    "outcome": "heeded",
    "text": "You have run the same command four times; read its output, then change something.",
}
ENTRY: Row = {
    "event_id": new_id("evt"),
    "at": NOW,
    "service": "management_api",
    "action": "unauthenticated",
    "who": f"key:{new_id('key')}",
    "what": f"POST /api/v1/agents/{new_id('agt')}/restart",
    "outcome": "refused",
    "source": "127.0.0.1",
    "trace_id": "0" * 32,
}
KEY: Row = {
    "key_id": new_id("key"),
    "name": "ci-of-the-release",
    "role": "operator",
    "revoked_at": None,
    "expires_at": "2027-11-21T09:39:56Z",
    "last_used_at": NOW,
    "user_id": new_id("usr"),
    "project": "alpha",
    "scopes": ["tasks:write", "agents:read"],
}
AGENT: Row = {
    "agent_id": new_id("agt"),
    "name": "ada-the-second",
    "package": "hello",
    "mode": "process",
    "state": "error",
    "desired": "running",
    "restarts": 5,
    "live_tasks": 0,
    "last_seen": NOW,
    "labels": {"team": "a", "env": "production"},
    "reason": "it ended with exit code 70 five times within 60 s: its start() failed; its log says how",
}
SANDBOX: Row = {
    "sandbox_id": new_id("sbx"),
    "task_id": new_id("tsk"),
    "epoch": 1,
    "state": "stopping",
    "provider": "local",
    "isolation": "pid-namespace",
    "package": "openhands",
    "next_seq": 1234,
    "exit_code": 143,
    "seconds": 86_399.7,
    "cost_usd": "1.001673",
}
TASK: Row = {
    "task_id": new_id("tsk"),
    "state": "running",
    "package": "echo",
    "model": None,
    "attempts": [],
    "updated_at": NOW,
    "objective": "l1",
}
LONG_TASK: Row = {
    **TASK,
    "state": "validating",
    "package": "a-package-with-a-long-name",
    "model": "anthropic/claude-sonnet-4-5-20250929",
    "objective": "Make the failing tests of the parser pass without a change of the tests",
}
SHORT_SANDBOX: Row = {**SANDBOX, "state": "error", "isolation": "plain", "seconds": None, "cost_usd": None}


@pytest.mark.parametrize(
    ("layout", "row", "shown"),
    [
        (INTERVENTIONS, INTERVENTION, ("message_id", "outcome", "text")),
        (ENTRIES, ENTRY, ("who", "action", "what", "outcome")),
        (KEYS, KEY, ("key_id", "name", "role", "scopes")),
        (SANDBOXES, SANDBOX, ("sandbox_id", "state", "isolation", "seconds", "cost_usd")),
        (AGENTS, AGENT, ("name", "state", "restarts", "reason")),
    ],
)
def test_table_of_80_columns_shows_the_id_and_the_requested_columns(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    layout: TableLayout,
    row: Row,
    shown: tuple[str, ...],
):
    monkeypatch.setenv("COLUMNS", str(WIDTH))

    emit_rows([row, row], "table", layout)

    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= WIDTH for line in lines), lines
    assert "…" not in "".join(lines)
    told = _columns(lines)
    cells = layout.cells(row)
    for column in shown:
        assert told[column.upper().replace("_", " ")] == "".join(str(cells[column]).split()) * 2


def _columns(lines: list[str]) -> dict[str, str]:
    """Return the texts under each header, without the blanks of folded lines."""
    head, *rest = lines
    names = [name for name in head.split("  ") if name.strip()]
    starts = [head.index(name) for name in names]
    ends = [*starts[1:], None]
    below = [
        "".join("".join(line[start:end].split()) for line in rest) for start, end in zip(starts, ends, strict=True)
    ]
    return dict(zip((name.strip() for name in names), below, strict=True))


def test_dropped_column_is_restored_if_it_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    row = {"name": "ada", "small": "s", "large": "l" * 90}

    emit_rows([row], "table", TableLayout(columns=("name", "small", "large"), dropped_first=("small", "large")))

    said = capsys.readouterr()
    assert said.out.split() == ["NAME", "SMALL", "ada", "s"]
    assert said.err == "-o jsonl also shows LARGE\n"
    emit_rows(
        [row | {"large": "l"}],
        "table",
        TableLayout(columns=("name", "small", "large"), dropped_first=("small", "large")),
    )
    assert capsys.readouterr().err == ""


def test_demo_summary_fits_into_80_columns():
    task = TaskReport(
        **{name: [] for name in ("shortfalls", "attempts", "findings", "interventions", "verify")},
        **dict.fromkeys(("task_id", "model", "killed", "summary", "diff")),
        **_told(),
    )
    report = Report(
        ok=True,
        provider="scripted",
        seconds=44.0,
        tasks=[task],
        verify={"ok": True, "sandboxes": 1},
        stack=StackReport(ready_s=3.2, restarts={}),
    )
    screen = io.StringIO()

    show(report, Console(file=screen, width=WIDTH))

    lines = screen.getvalue().splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    assert "…" not in screen.getvalue()
    assert (lines[-4], lines[-1]) == ("", ""), "a blank line is not padded to the width of the terminal"
    for words in ("attempts", "events", "steered", "tokens", "seconds", "1,234,567", "bugfix", "tests pass"):
        assert words in screen.getvalue()


def _told() -> dict[str, Any]:
    return {
        "name": "bugfix",
        "title": "",
        "ok": True,
        "state": "completed",
        "events": 1234,
        "tokens": 1_234_567,
        "seconds": 123.4,
        "proof": Proof(applied=True, passed=True),
    }


@pytest.mark.parametrize("width", [80, 100, 130, 200])
@pytest.mark.parametrize(
    ("layout", "rows"), [(TASKS, (TASK, LONG_TASK)), (SANDBOXES, (SANDBOX, SHORT_SANDBOX))], ids=["tasks", "sandboxes"]
)
def test_terminal_of_one_width_always_shows_the_same_columns(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    layout: TableLayout,
    rows: list[Row],
    width: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    headers: list[list[str]] = []
    for row in rows:
        emit_rows([row], "table", layout)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width
        headers.append(lines[0].split())
    assert headers[0] == headers[1]


def test_state_names_the_isolation_only_if_the_table_has_no_column_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = ("plain", "landlock", "bubblewrap", "daytona")
    attempt = {"epoch": 1, "sandbox_id": new_id("sbx"), "state": "running", "tokens": 0, "model_calls": 0}
    rows: list[Row] = [{**attempt, "isolation": level, "reason": "r" * 60} for level in levels]
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    emit_rows(rows, "table", ATTEMPTS)
    narrow = capsys.readouterr()
    assert "ISOLATION" in narrow.err
    assert "ISOLATION" not in narrow.out
    assert [f"running ({level})" in narrow.out for level in levels] == [True, True, False, False]

    monkeypatch.setenv("COLUMNS", "200")
    emit_rows(rows, "table", ATTEMPTS)
    wide = capsys.readouterr().out
    assert "ISOLATION" in wide
    assert "(" not in wide


def test_audit_table_shows_the_name_of_the_caller_instead_of_the_id(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "300")
    rows: list[Row] = [{**ENTRY, "who_name": "vera (key laptop)"}, {**ENTRY, "who_name": None}]
    emit_rows(rows, "table", ENTRIES)

    named, unnamed = capsys.readouterr().out.splitlines()[1:]
    assert "vera (key laptop)" in named
    assert ENTRY["who"] not in named
    assert ENTRY["who"] in unnamed
