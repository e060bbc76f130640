"""The worker finds OpenHands' next event file at constant cost, however many files there are."""

import json
import os
from pathlib import Path

import pytest

from muster.agents.openhands.event_files import EventFiles


def write(folder: Path, index: int) -> str:
    """Write the file of one event; return the event's id."""
    event = {"id": f"{index:08x}-e", "timestamp": "2026-01-02T03:04:05", "source": "agent", "kind": "MessageEvent"}
    (folder / f"event-{index:05d}-{event['id']}.json").write_text(json.dumps(event))
    return event["id"]


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Record every listing of a folder from now on."""
    seen: list[object] = []
    really = os.listdir

    def counted(path: Path) -> list[str]:
        seen.append(path)
        return really(path)

    monkeypatch.setattr(os, "listdir", counted)
    return seen


def test_reported_events_are_found_without_listing_the_folder(tmp_path: Path, listings: list[object]) -> None:
    write(tmp_path, 0)
    files = EventFiles(tmp_path)
    assert files.count() == 1
    at_start = len(listings)
    for index in range(1, 200):
        files.written(write(tmp_path, index))
        assert [event.seq for event in files.read(index, 50)] == [index + 1]
        assert files.read(index + 1, 50) == []
        assert files.count() == index + 1
    assert len(listings) == at_start


def test_unreported_event_is_found_with_the_next_one(tmp_path: Path) -> None:
    files = EventFiles(tmp_path)
    assert files.count() == 0
    write(tmp_path, 0)
    files.written(write(tmp_path, 1))
    assert files.count() == 2


def test_unreported_last_event_is_found_by_a_new_listing(tmp_path: Path) -> None:
    files = EventFiles(tmp_path)
    files.written(write(tmp_path, 0))
    write(tmp_path, 1)
    files.list_again()
    assert [event.seq for event in files.read(0, 10)] == [1, 2]


def test_event_that_a_listing_found_first_is_counted_once_and_lists_nothing(
    tmp_path: Path, listings: list[object]
) -> None:
    files = EventFiles(tmp_path)
    ids = [write(tmp_path, index) for index in range(3)]
    assert files.count() == 3
    at_start = len(listings)
    for event_id in ids:
        files.written(event_id)
    assert files.count() == 3
    assert len(listings) == at_start


def test_event_after_a_missing_index_waits_for_that_index(tmp_path: Path) -> None:
    files = EventFiles(tmp_path)
    files.written(write(tmp_path, 0))
    files.written(write(tmp_path, 2))
    assert files.count() == 1
    files.written(write(tmp_path, 1))
    assert files.count() == 3
