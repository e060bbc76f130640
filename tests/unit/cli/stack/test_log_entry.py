"""Lines of services, NATS and PostgreSQL have a time, a level and a text that a person can read."""

from datetime import UTC, datetime

import pytest

from muster.cli.commands.stack.log_entry import log_entry
from muster.cli.console.agent_log_lines import readable_lines

NATS = "[31420] 2026/11/30 17:10:31.389550 [WRN] Slow consumer"
POSTGRES = "2026-11-30 17:10:31.389 UTC [123] FATAL:  the database system is starting up"
SERVICE = '{"event":"package discovered","level":"info","package":"echo","timestamp":"2026-11-30T17:10:31.389Z"}'


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        (NATS, "warning  Slow consumer"),
        (POSTGRES, "error    the database system is starting up"),
        (SERVICE, "info     package discovered  package=echo"),
    ],
)
def test_line_of_each_kind_of_part_is_dated_and_readable(text: str, readable: str) -> None:
    entry = log_entry("part", text)
    assert entry.at is not None
    assert entry.at.replace(microsecond=0) == datetime(2026, 11, 30, 17, 10, 31, tzinfo=UTC)
    assert readable_lines(entry.readable) == [readable]


@pytest.mark.parametrize("text", ["KeyError: 1", "{broken", '{"event":1,"timestamp":"soon"}', "[1] 2026/99/99 [INF] x"])
def test_any_other_line_is_undated_and_unchanged(text: str) -> None:
    entry = log_entry("part", text)
    assert (entry.at, entry.readable, entry.fields()["log"]) == (None, text, "part")


def test_fields_of_a_record_are_unchanged_and_those_of_another_line_are_its_text() -> None:
    assert log_entry("manager", SERVICE).fields() == {
        "log": "manager",
        "event": "package discovered",
        "level": "info",
        "package": "echo",
        "timestamp": "2026-11-30T17:10:31.389Z",
    }
    assert log_entry("nats", NATS).fields()["text"] == NATS
