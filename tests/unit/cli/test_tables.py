"""What tables show at 80 columns: who it is and what was asked for, whole."""

import io
from typing import Any

import pytest
from rich.console import Console

from muster.cli.commands.agent.listing import AGENTS
from muster.cli.commands.auth.audit import ENTRIES
from muster.cli.commands.auth.keys import KEYS
from muster.cli.commands.guardian import INTERVENTIONS
from muster.cli.console.output import Row, Shape, emit_rows
from muster.cli.console.table import with_isolation
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


@pytest.mark.parametrize(
    ("shape", "row", "shown"),
    [
        (INTERVENTIONS, INTERVENTION, ("message_id", "outcome", "text")),
        (ENTRIES, ENTRY, ("who", "action", "what", "outcome")),
        (KEYS, KEY, ("key_id", "name", "role", "scopes")),
        (AGENTS, AGENT, ("name", "state", "restarts", "reason")),
    ],
)
def test_eighty_columns_hold_who_it_is_and_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shape: Shape, row: Row, shown: tuple[str, ...]
):
    monkeypatch.setenv("COLUMNS", str(WIDTH))

    emit_rows([row, row], "table", shape)

    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= WIDTH for line in lines), lines
    assert "…" not in "".join(lines)
    told = _columns(lines)
    cells = shape.cells(row)
    for column in shown:
        assert told[column.upper().replace("_", " ")] == "".join(str(cells[column]).split()) * 2


def _columns(lines: list[str]) -> dict[str, str]:
    """What stands under each header, without the blanks at which it was folded."""
    head, *rest = lines
    names = [name for name in head.split("  ") if name.strip()]
    starts = [head.index(name) for name in names]
    ends = [*starts[1:], None]
    below = [
        "".join("".join(line[start:end].split()) for line in rest) for start, end in zip(starts, ends, strict=True)
    ]
    return dict(zip((name.strip() for name in names), below, strict=True))


def test_a_column_that_gave_way_comes_back_where_there_is_room_after_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    row = {"name": "ada", "small": "s", "large": "l" * 90}

    emit_rows([row], "table", Shape(columns=("name", "small", "large"), spare=("small", "large")))

    said = capsys.readouterr()
    assert said.out.split() == ["NAME", "SMALL", "ada", "s"]
    assert said.err == "-o jsonl also shows LARGE\n"
    emit_rows([row | {"large": "l"}], "table", Shape(columns=("name", "small", "large"), spare=("small", "large")))
    assert capsys.readouterr().err == ""


def test_the_last_table_of_the_demo_can_be_read_at_eighty_columns():
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


def test_the_state_of_what_runs_without_isolation_says_so_in_the_narrowest_table() -> None:
    rows = [{"state": "running", "isolation": "plain"}, {"state": "running", "isolation": "bubblewrap"}]

    assert [with_isolation(row)["state"] for row in rows] == ["running (plain)", "running"]
