"""Events on disk of both agents: torn, missing or foreign events never reach the outbox."""

import json
import tomllib
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muster.agent.journal import EventJournal, JournalPosition
from muster.agents.echo.script import steps_of
from muster.agents.openhands.event_files import EventFiles
from muster.common.contracts.worker_api import Handoff


def body(number: int, **more: Any) -> dict[str, Any]:
    stamp = f"2026-01-02T03:04:05.{number:06d}"
    return {"id": f"{number:08x}-e", "timestamp": stamp, "source": "agent", "kind": "MessageEvent", **more}


def write(folder: Path, index: int, **more: Any) -> None:
    event = body(index, **more)
    (folder / f"event-{index:05d}-{event['id']}.json").write_text(json.dumps(event))


def test_torn_last_line_is_removed_and_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = EventJournal(path)
    journal.append([body(1) | {"timestamp": "2026-01-02T03:04:05Z"}], JournalPosition(0, 0))
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"event":{"id":"half')
    journal = EventJournal(path)
    assert (journal.count(), journal.position) == (1, JournalPosition(0, 0))
    journal.append([body(2) | {"timestamp": "2026-01-02T03:04:06Z"}], None)
    assert [event.seq for event in journal.read(0, 10)] == [1, 2]
    journal.close()
    again = EventJournal(path)
    assert (again.count(), again.position) == (2, JournalPosition(0, 0))
    again.close()


def test_event_files_are_read_unparsed_up_to_the_first_missing_index(tmp_path: Path) -> None:
    write(tmp_path, 0, source="user")
    write(tmp_path, 1, sender="muster:msg_1", source="user", new_field={"of": "a later version"})
    write(tmp_path, 3)
    (tmp_path / "event-00002-half.json.tmp").write_text("{")
    (tmp_path / ".eventlog-len-2.marker").write_text("")
    files = EventFiles(tmp_path)
    assert files.count() == 2
    assert files.delivered() == {"msg_1"}
    assert files.has_objective()
    second = files.read(1, 10)[0]
    assert (second.seq, second.at) == (2, datetime(2026, 1, 2, 3, 4, 5, 1, UTC))
    assert json.loads(bytes(second.body))["new_field"] == {"of": "a later version"}
    write(tmp_path, 2)
    files.list_again()
    assert [event.seq for event in files.read(2, 10)] == [3, 4]


def test_a_conversation_not_yet_begun_has_no_events(tmp_path: Path) -> None:
    assert EventFiles(tmp_path / "nothing").count() == 0


@pytest.mark.parametrize("step", [{"act": "a", "finish": "success"}, {}, {"acts": "typo"}])
def test_step_has_exactly_one_action(step: dict[str, Any]) -> None:
    handoff = Handoff(
        gateway_url="u",
        token="t",
        sandbox_id="s",
        task_id="t",
        agent_id="a",
        epoch=1,
        conversation_id="c",
        package="echo",
        model="m",
        objective="o",
        workspace="w",
        state_dir="d",
        timeout_s=1,
        metadata={"steps": [step]},
    )
    with pytest.raises(msgspec.ValidationError):
        steps_of(handoff)


@pytest.mark.parametrize("name", ["echo", "openhands"])
def test_package_describes_itself_in_its_manifest(name: str) -> None:
    told = tomllib.loads(resources.files(f"muster.agents.{name}").joinpath("agent.toml").read_text())
    assert told["name"] == name
    assert told["module"] == f"muster.agents.{name}"
    assert told["graceful_stop_s"] > 0
