"""Parsing of option values, and the goal that `--wait` waits for."""

from datetime import UTC, datetime, timedelta
from typing import Any

import click
import msgspec
import pytest

from muster.cli.commands.agent.lifecycle import Goal, Verb
from muster.cli.console.params import NUMBER, parse_time
from muster.common.contracts.agents import AgentView

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("90s", NOW + timedelta(seconds=90)),
        ("15min", NOW + timedelta(minutes=15)),
        ("15m", NOW + timedelta(minutes=15)),
        ("12h", NOW + timedelta(hours=12)),
        ("30d", NOW + timedelta(days=30)),
        ("2w", NOW + timedelta(weeks=2)),
        ("2026-12-31T00:00:00Z", datetime(2026, 12, 31, tzinfo=UTC)),
    ],
)
def test_time_option_accepts_a_duration_or_a_time(word: str, meant: datetime):
    assert parse_time(word, NOW) == meant


@pytest.mark.parametrize("word", ["", "soon", "-1d", "30", "2026-12-31", "2026-12-31T00:00:00"])
def test_invalid_time_option_is_refused(word: str):
    with pytest.raises(SystemExit) as refused:
        parse_time(word, NOW)

    assert refused.value.code == 2


def test_duration_that_ends_after_the_year_9999_is_refused():
    with pytest.raises(SystemExit) as refused:
        parse_time("3000000d", NOW)

    assert refused.value.code == 2


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e999", "ten"])
def test_number_option_refuses_what_json_cannot_contain(word: str):
    with pytest.raises(click.BadParameter):
        NUMBER.convert(word, None, None)


def view(**fields: Any) -> AgentView:
    given: dict[str, Any] = {
        "agent_id": "agt_1",
        "name": "a",
        "package": "echo",
        "agent_type": "x",
        "agent_version": "1",
        "mode": "process",
        "capabilities": [],
        "config": {},
        "labels": {},
        "is_default": False,
        "desired": "running",
        "state": "starting",
        "state_since": NOW,
        "cites": "registered",
        "reason": None,
        "exit_code": None,
        "launch": 1,
        "restarts": 0,
        "pid": None,
        "owner": None,
        "last_seen": None,
        "live_tasks": 0,
        "version": 3,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return msgspec.convert(msgspec.to_builtins(given | fields), AgentView)


@pytest.mark.parametrize(
    ("verb", "fields", "end"),
    [
        ("start", {}, "open"),
        ("start", {"state": "running"}, "reached"),
        ("start", {"state": "idle", "launch": 2}, "reached"),
        ("start", {"state": "error"}, "open"),
        ("start", {"state": "error", "launch": 2}, "missed"),
        ("start", {"state": "error", "state_since": NOW + timedelta(seconds=1)}, "missed"),
        ("start", {"state": "quarantined", "launch": 2}, "missed"),
        ("start", {"state": "stopped", "desired": "stopped", "launch": 2}, "missed"),
        ("restart", {"state": "running"}, "open"),
        ("restart", {"state": "stopped"}, "open"),
        ("restart", {"state": "running", "launch": 2}, "reached"),
        ("restart", {"state": "idle", "mode": "sandbox"}, "reached"),
        ("stop", {"state": "stopping", "desired": "stopped"}, "open"),
        ("stop", {"state": "stopped", "desired": "stopped"}, "reached"),
        ("stop", {"state": "running", "desired": "running"}, "missed"),
    ],
)
def test_wait_ends_when_the_agent_reaches_or_can_no_longer_reach_its_goal(verb: Verb, fields: dict[str, Any], end: str):
    goal, seen = Goal(verb, 1, NOW), view(**fields)

    assert (goal.reached(seen), goal.missed(seen)) == (end == "reached", end == "missed")
