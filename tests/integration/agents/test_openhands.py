"""The coding agent as a real process with the real SDK.

There are few such tests, because each process costs seconds of CPU.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from muster.common.clock import utc_now
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.worker_api import InboxMessage
from tests.support.doors_double import TOKEN, Doors, called, handoff_for, launch

pytestmark = [pytest.mark.timeout(240), pytest.mark.stress]


@pytest.fixture
def doors() -> Iterator[Doors]:
    doors = Doors()
    yield doors
    doors.stop()


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for worker in started:
        worker.kill()
        worker.wait()


def repository(folder: Path) -> str:
    folder.mkdir()
    (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    identity = ["-c", "user.name=T", "-c", "user.email=t@t.invalid"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return f"file://{folder}"


def turns(request: dict[str, Any]) -> int:
    return sum(message["role"] == "assistant" for message in request["messages"])


def contiguous(doors: Doors) -> bool:
    return [event.seq for event in doors.events] == list(range(1, len(doors.events) + 1))


def ran(worker: int, command: str) -> bool:
    below = psutil.Process(worker).children(recursive=True)
    return any(" ".join(process.cmdline()) == command for process in below)


def steer(text: str, position: int, *, urgent: bool = False) -> InboxMessage:
    return InboxMessage(
        message_id=f"msg_{position}",
        epoch=1,
        kind="steer",
        urgent=urgent,
        text=text,
        sender="guardian",
        expires_at=utc_now() + timedelta(minutes=5),
        position=position,
    )


def test_agent_repairs_a_repository_over_a_unix_socket(
    doors: Doors, workers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    file, told = str(tmp_path / "workspace" / "calc.py"), tmp_path / "told"
    until = f"while [ ! -e {told} ]; do sleep 0.05; done"

    def model(request: dict[str, Any]) -> dict[str, Any]:
        match turns(request):
            case 0:
                edit = {"command": "str_replace", "path": file, "old_str": "a - b", "new_str": "a + b"}
                return called("file_editor", 0, **edit)
            case 1:
                return called("terminal", 1, command=f"python -c 'import calc; print(calc.add(2, 3))'; env; {until}")
            case _:
                return called("finish", 2, message="add adds again")

    doors.model = model
    socket = tmp_path / "g.sock"
    url = doors.start_on_socket(socket)
    repo = repository(tmp_path / "origin")
    handoff = handoff_for(doors, url, tmp_path, gateway_socket=str(socket), repo=Repo(url=repo), timeout_s=120.0)
    workers.append(launch("openhands", handoff, tmp_path))
    doors.until(lambda: doors.beats)
    process = Path(f"/proc/{workers[0].pid}")
    assert TOKEN.encode() not in (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
    doors.until(lambda: any(beat.busy == "tool" for beat in doors.beats), 60)
    told.touch()
    assert workers[0].wait(120) == 0, (tmp_path / "worker.log").read_text()
    assert contiguous(doors)
    kinds = [event.kind for event in doors.events]
    assert kinds == ["SystemPromptEvent", "MessageEvent", *["ActionEvent", "ObservationEvent"] * 3]
    seen = doors.bodies()[5]["observation"]["content"][0]["text"]
    assert seen.startswith("5")
    assert "\x1b" not in seen
    assert doors.finished[0].outcome == "success"
    assert doors.finished[0].summary == "add adds again"
    assert "+    return a + b" in doors.finished[0].diff
    assert doors.model_requests[0]["model"] == "scripted/test"
    assert abs((doors.events[0].at - utc_now()).total_seconds()) < 120
    assert {"model", "tool"} <= {beat.busy for beat in doors.beats}
    for folder, _, names in os.walk(tmp_path):
        for name in names:
            path = Path(folder) / name
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_agent_is_steered_killed_during_an_outage_and_continues(
    doors: Doors, workers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    def model(request: dict[str, Any]) -> dict[str, Any]:
        text, turn = json.dumps(request["messages"]), turns(request)
        if "stopped while this ran" in text:
            return called("finish", turn, message="went on after the kill")
        if "stop waiting" in text:
            return called("terminal", turn, command="echo nearly; sleep 50", timeout=90)
        if "another file" in text:
            return called("terminal", turn, command="sleep 60; echo never", timeout=90)
        return called("terminal", turn, command=f"sleep 0.2; echo step {turn}")

    doors.model = model
    url = doors.start()
    handoff = handoff_for(doors, url, tmp_path, timeout_s=120.0)
    workers.append(launch("openhands", handoff, tmp_path))
    doors.until(lambda: len(doors.events) > 5, 60)
    doors.offer(steer("try another file", 1))
    doors.until(lambda: any("sleep 60" in json.dumps(body) for body in doors.bodies()), 30)
    asked = [json.dumps(request["messages"]) for request in doors.model_requests]
    assert "[muster:msg_1]" in asked[-1]
    assert "[muster:msg_1]" not in asked[-2]
    # This message waits until the tool call ends; the next message must not wait for it.
    doors.offer(steer("in no hurry", 2))
    doors.offer(steer("stop waiting", 3, urgent=True))
    doors.until(lambda: any("echo nearly" in json.dumps(body) for body in doors.bodies()), 30)
    doors.until(lambda: ran(workers[0].pid, "sleep 50"))
    assert not ran(workers[0].pid, "sleep 60")
    assert "[muster:msg_3]" in json.dumps(doors.model_requests[-1]["messages"])
    doors.stop()
    workers[0].kill()
    workers[0].wait()
    workers.append(launch("openhands", handoff, tmp_path))
    with pytest.raises(subprocess.TimeoutExpired):
        workers[1].wait(8)  # The model is unreachable too during the outage, so the agent waits.
    doors.start(int(url.rpartition(":")[2]))
    assert workers[1].wait(90) == 0, (tmp_path / "worker.log").read_text()
    assert contiguous(doors)
    assert doors.finished[0].summary == "went on after the kill"
    delivered = [body["sender"] for body in doors.bodies() if body.get("sender")]
    assert sorted(delivered) == ["muster:msg_1", "muster:msg_2", "muster:msg_3"]
    half_run = next(body for body in doors.bodies() if "stopped while this ran" in json.dumps(body))
    assert half_run["kind"] == "AgentErrorEvent"
    parent = next(body for body in doors.bodies() if body["id"] == half_run["parent_id"])
    assert parent["action"]["command"].startswith("echo nearly")


def test_slowly_starting_shell_is_waited_for(
    doors: Doors, workers: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, real = tmp_path / "slow" / "bash", shutil.which("bash")
    slow.parent.mkdir()
    # The SDK's prompt runs `command`, which is slow in this shell.
    (slow.parent / "rc").write_text('command() { sleep 0.7; builtin command "$@"; }\n')
    slow.write_text(f'#!/bin/sh\nexec {real} --rcfile {slow.parent}/rc "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")

    def model(request: dict[str, Any]) -> dict[str, Any]:
        turn = turns(request)
        return called("terminal", turn, command=f"echo step-{turn}") if turn < 3 else called("finish", 3, message="")

    doors.model = model
    handoff = handoff_for(doors, doors.start(), tmp_path, timeout_s=120.0)
    workers.append(launch("openhands", handoff, tmp_path))

    assert workers[0].wait(120) == 0, (tmp_path / "worker.log").read_text()
    seen = [body["observation"]["content"] for body in doors.bodies() if body["kind"] == "ObservationEvent"][:3]
    assert [content[0]["text"].splitlines()[0] if content else "" for content in seen] == ["step-0", "step-1", "step-2"]


@pytest.mark.parametrize("also", [[], ["drop"]])
def test_command_is_interrupted_even_if_ctrl_c_arrives_before_it(tmp_path: Path, also: list[str]) -> None:
    program = [sys.executable, "-m", "tests.support.late_command", str(tmp_path), *also]
    said = subprocess.run(program, stdout=subprocess.PIPE, timeout=200, check=True).stdout
    assert json.loads(said.splitlines()[-1]) == {"rested": True, "exit_code": 130, "next": "next"}


def test_permanently_refused_model_ends_the_run_at_once(
    doors: Doors, workers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    why = "set OPENAI_API_KEY where the stack is started: the model openai/gpt cannot be called without a key"
    doors.model = lambda _: {"_status": 403, "type": "urn:x", "title": "x", "status": 403, "detail": why}
    handoff = handoff_for(doors, doors.start(), tmp_path, timeout_s=120.0)
    workers.append(launch("openhands", handoff, tmp_path))

    assert workers[0].wait(60) == 0, (tmp_path / "worker.log").read_text()
    assert (doors.finished[0].outcome, doors.finished[0].error) == ("refused", why)
    assert len(doors.model_requests) == 1
