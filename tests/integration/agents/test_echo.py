"""The echo agent as a real process, with a small real HTTP server as the gateway."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from muster.common.clock import utc_now
from muster.common.contracts.worker_api import InboxMessage
from tests.support.doors_double import TOKEN, Doors, handoff_for, launch

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def doors() -> Iterator[Doors]:
    doors = Doors()
    yield doors
    doors.stop()


@pytest.fixture
def start(doors: Doors, tmp_path: Path) -> Iterator[Start]:
    workers: list[subprocess.Popen[bytes]] = []

    def started(url: str, *steps: dict[str, Any], **changes: Any) -> subprocess.Popen[bytes]:
        metadata = {"steps": list(steps)} if steps else {}
        workers.append(launch("echo", handoff_for(doors, url, tmp_path, metadata=metadata, **changes), tmp_path))
        return workers[-1]

    yield started
    for worker in workers:
        worker.kill()
        worker.wait()


def message(message_id: str, position: int, **changes: Any) -> InboxMessage:
    told: dict[str, Any] = {
        "message_id": message_id,
        "epoch": 1,
        "kind": "steer",
        "urgent": False,
        "text": "try the other file",
        "sender": "guardian",
        "expires_at": utc_now() + timedelta(minutes=5),
        "position": position,
    }
    return InboxMessage(**(told | changes))


def seqs(doors: Doors) -> list[int]:
    return [event.seq for event in doors.events]


def test_task_is_played_from_objective_to_finish(doors: Doors, start: Start, tmp_path: Path) -> None:
    worker = start(doors.start())
    assert worker.wait(20) == 0, (tmp_path / "worker.log").read_text()
    assert [event.kind for event in doors.events] == [
        "MessageEvent",
        "ActionEvent",
        "ObservationEvent",
        "ActionEvent",
        "ObservationEvent",
    ]
    assert doors.events[1].parent_id == doors.events[0].event_id
    assert doors.finished[0].outcome == "success"
    assert doors.beats[0].state == "running"
    assert not (tmp_path / "handoff.json").exists()


def test_nul_characters_in_a_summary_are_replaced(doors: Doors, start: Start) -> None:
    worker = start(doors.start(), {"finish": "failure", "summary": "read a\0b"})
    assert worker.wait(20) == 0
    assert doors.finished[0].summary == "read a\ufffdb"


def test_worker_survives_an_outage_and_a_new_address_of_the_gateway(doors: Doors, start: Start) -> None:
    url = doors.start()
    worker = start(url, {"act": "make", "times": 60, "every_ms": 30}, {"finish": "success"})
    doors.until(lambda: len(doors.events) > 5)
    doors.stop()
    seen = len(doors.events)
    assert worker.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(1.5)  # The worker continues to work during the outage.
    doors.start(int(url.rpartition(":")[2]))
    assert worker.wait(20) == 0
    assert seqs(doors) == list(range(1, 1 + 1 + 120 + 2))
    assert len(doors.events) > seen


def test_relaunched_worker_continues_with_the_next_seq(doors: Doors, start: Start, tmp_path: Path) -> None:
    url = doors.start()
    steps = [{"act": "make", "times": 40, "every_ms": 25}, {"finish": "failure", "summary": "no"}]
    worker = start(url, *steps)
    doors.until(lambda: len(doors.events) > 9)
    worker.kill()
    worker.wait()
    journal = tmp_path / "state" / "events.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"event":{"id":"evt_torn')  # A kill during a write leaves such a line.
    assert start(url, *steps).wait(20) == 0, (tmp_path / "worker.log").read_text()
    assert seqs(doors) == list(range(1, 1 + 1 + 80 + 2))
    kinds = [event.kind for event in doors.events[1:]]
    assert kinds == ["ActionEvent", "ObservationEvent"] * 41
    assert [finished.outcome for finished in doors.finished] == ["failure"]


def test_fenced_worker_stops_and_sends_nothing_more(doors: Doors, start: Start) -> None:
    worker = start(doors.start(), {"act": "make", "times": 1000, "every_ms": 10})
    doors.until(lambda: len(doors.events) > 5)
    with doors.changed:
        doors.fenced = True
        stored = len(doors.events)
    assert worker.wait(10) == 75
    assert len(doors.events) == stored
    assert len([call for call in doors.after_fence if "beat" not in call and "inbox" not in call]) <= 1
    assert doors.finished == []


def test_repeated_message_is_delivered_once_even_after_a_relaunch(doors: Doors, start: Start) -> None:
    url = doors.start()
    steps = [{"act": "look", "until_message": True, "every_ms": 20}, {"sleep_ms": 1500}, {"ask": {"text": "next?"}}]
    worker = start(url, *steps)
    doors.until(lambda: len(doors.events) > 5)
    doors.offer(message("msg_late", 1, expires_at=utc_now() - timedelta(seconds=1)))
    doors.offer(message("msg_old", 2, epoch=7))
    doors.offer(message("msg_a", 3))
    doors.offer(message("msg_a", 4))
    doors.until(lambda: any(body.get("sender") for body in doors.bodies()))
    worker.kill()
    worker.wait()
    assert start(url, *steps).wait(20) == 0
    delivered = [body for body in doors.bodies() if body.get("sender")]
    assert [body["sender"] for body in delivered] == ["muster:msg_a"]
    asked = json.dumps(doors.model_requests[-1])
    assert asked.count("[muster:msg_a]") == 1
    assert doors.bodies()[-1]["llm_message"]["content"][0]["text"] == "hello"


def test_a_crash_step_is_played_once(doors: Doors, start: Start, tmp_path: Path) -> None:
    url = doors.start()
    steps = [{"write": {"path": "sub/new.txt", "text": "hi\n"}}, {"exit": 3}, {"finish": "success"}]
    assert start(url, *steps).wait(10) == 3
    assert start(url, *steps).wait(10) == 0
    assert "+hi" in doors.finished[0].diff
    assert seqs(doors) == list(range(1, 1 + 1 + 2 + 1 + 2))


def test_flood_of_events_arrives_complete_in_few_posts(doors: Doors, start: Start) -> None:
    assert start(doors.start(), {"flood": 3000}).wait(30) == 0
    assert seqs(doors) == list(range(1, 3002))
    assert len(doors.posts) < 60
    assert max(doors.posts) <= 500


def test_run_that_exceeds_its_time_limit_is_an_error_with_its_diff(doors: Doors, start: Start) -> None:
    steps = [{"write": {"path": "a.txt", "text": "half\n"}}, {"sleep_ms": 60_000}]
    assert start(doors.start(), *steps, timeout_s=1.0).wait(20) == 0
    finished = doors.finished[0]
    assert (finished.outcome, finished.limit) == ("error", "time")
    assert "longer than the limit of 1 s" in str(finished.error)
    assert "+half" in doors.finished[0].diff


def test_diff_larger_than_a_frame_is_reported_but_not_sent(doors: Doors, start: Start) -> None:
    huge = {"write": {"path": "a.txt", "text": "line\n" * 250_000}}
    assert start(doors.start(), huge, {"finish": "success"}).wait(20) == 0
    assert doors.finished[0].outcome == "success"
    assert doors.finished[0].diff == ""
    assert "left out" in str(doors.finished[0].error)


def test_terminated_worker_sends_all_events_before_it_exits(doors: Doors, start: Start, tmp_path: Path) -> None:
    worker = start(doors.start(), {"act": "make", "times": 5}, {"sleep_ms": 60_000})
    doors.until(lambda: len(doors.events) > 3)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 143
    written = (tmp_path / "state" / "events.jsonl").read_bytes().count(b"\n")
    assert len(doors.events) == written
    assert doors.finished == []


def test_unknown_token_and_refused_body_have_distinct_exit_codes(doors: Doors, start: Start, tmp_path: Path) -> None:
    url = doors.start()
    assert start(url, token="wrong").wait(10) == 77
    doors.refuse_next = [(413, {})] * 9
    code = start(url).wait(10)
    assert code == 65, (doors.refuse_next, doors.posts, (tmp_path / "worker.log").read_text())


def test_token_is_only_in_memory(doors: Doors, start: Start, tmp_path: Path) -> None:
    worker = start(doors.start(), {"ask": {"text": "hi"}}, {"sleep_ms": 60_000})
    doors.until(lambda: doors.model_requests)
    process = Path(f"/proc/{worker.pid}")
    assert TOKEN.encode() not in (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
    worker.send_signal(signal.SIGTERM)
    worker.wait(10)
    for folder, _, files in os.walk(tmp_path):
        for name in files:
            assert TOKEN.encode() not in (Path(folder) / name).read_bytes(), name


def test_a_worker_behind_a_unix_socket_needs_no_network(doors: Doors, start: Start, tmp_path: Path) -> None:
    socket = tmp_path / "g.sock"
    url = doors.start_on_socket(socket)
    assert start(url, {"ask": {"text": "hi"}}, gateway_socket=str(socket)).wait(20) == 0
    assert seqs(doors) == [1, 2]


def test_logged_steps_name_the_commits_that_record_the_workspace(doors: Doors, start: Start, tmp_path: Path) -> None:
    write = [{"write": {"path": "a.py", "text": text}} for text in ("one", "two")]
    wait = {"act": "wait", "until_message": True, "every_ms": 20}
    worker = start(doors.start(), write[0], wait, write[1], {"finish": "success"})
    doors.until(lambda: any(event.workspace for event in doors.events))
    doors.offer(message("msg_1", 1))
    assert worker.wait(20) == 0, (tmp_path / "worker.log").read_text()

    record = tmp_path / "state" / "record.git"
    show = ["git", "--git-dir", str(record), "for-each-ref", "--format=%(objectname) %(refname)", "refs/muster/steps"]
    refs = subprocess.run(show, check=True, capture_output=True, text=True).stdout.splitlines()
    logged = [f"{event.workspace} refs/muster/steps/{event.seq}" for event in doors.events if event.workspace]
    assert logged
    assert set(logged) <= set(refs)
    last = max(refs, key=lambda ref: int(ref.rpartition("/")[2]))
    assert doors.finished[0].workspace == last.split()[0]
    for commit, text in ((logged[0].split()[0], "one"), (doors.finished[0].workspace, "two")):
        read = ["git", "--git-dir", str(record), "show", f"{commit}:a.py"]
        assert subprocess.run(read, check=True, capture_output=True, text=True).stdout == text
