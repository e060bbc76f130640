"""The commands `muster up | down | status | doctor`, with stand-ins for the services."""

import json
import operator
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from muster.cli.commands.stack.detached import startup_error
from muster.embedded.processes import wait_for_exit
from muster.embedded.ready import read_ready
from tests.support import muster_with_standins
from tests.support.eventually import eventually
from tests.support.stack import processes_of, running_stack

PARTS = {"nats", "postgres", "shim", "agent_manager", "guardian", "management_api", "sandbox_gateway"}
MUSTER = (str(muster_with_standins.__file__),)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"MUSTER_NOTES": str(tmp_path), "COLUMNS": "120"}


def muster(*arguments: str, env: dict[str, str], command: tuple[str, ...] = MUSTER) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **env},
    )


@pytest.mark.stress
async def test_killed_process_is_restarted_and_counted(tmp_path: Path, env: dict[str, str]) -> None:
    async with running_stack(tmp_path, env=env, muster=MUSTER) as stack:
        names = ("nats", "shim", "guardian")
        pids = {name: await stack.kill(name) for name in names}

        assert {name: stack.pids[name] for name in names} == pids
        assert stack.ready.restarts == dict.fromkeys(names, 1)


@pytest.mark.stress
async def test_no_process_survives_up_killed_with_9(tmp_path: Path, env: dict[str, str]) -> None:
    async with running_stack(tmp_path, env=env, muster=MUSTER) as stack:
        stack.process.kill()
        await wait_for_exit(stack.process.pid)
        await eventually(lambda: processes_of(stack.data_dir), operator.not_)


async def test_stop_during_the_start_leaves_no_process(tmp_path: Path, env: dict[str, str]) -> None:
    data = tmp_path / "muster"
    with subprocess.Popen(
        [sys.executable, *MUSTER, "up", "--ephemeral", "--data", str(data)],
        env={**os.environ, **env},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("nats "):  # The first part is ready.
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        assert process.wait() == 130, rest
    assert processes_of(data) == {}


def test_detach_returns_when_the_stack_is_ready_status_shows_it_and_down_stops_it(
    tmp_path: Path, env: dict[str, str]
) -> None:
    data = str(tmp_path / "muster")
    up = muster("up", "--ephemeral", "--detach", "--data", data, env=env)
    assert (up.returncode, up.stdout) == (0, ""), up.stderr
    ready = read_ready(Path(data) / "ready.json")
    assert ready
    addresses = {ready.api_url, f"{ready.api_url}/docs)", ready.gateway_url, ready.nats_url, data, f"{data}/ready.json"}
    assert addresses <= set(up.stderr.split())
    assert f"export MUSTER_DATA_DIR={data}\n" in up.stderr
    assert {"muster task submit", "muster model add", "muster down"} <= set(
        re.findall(r"muster \w+(?: [a-z]+)?", up.stderr)
    )
    lines = up.stderr.splitlines()
    assert {line.split()[0] for line in lines if " ready after " in line} == PARTS
    assert set(ready.pids) == PARTS
    assert stat.S_IMODE((Path(data) / "ready.json").stat().st_mode) == 0o600

    status = muster("status", "--data", data, "-o", "json", env=env)
    assert status.returncode == 0
    rows = {row["name"]: row for row in json.loads(status.stdout)["processes"]}
    assert set(rows) == PARTS | {"up"}
    assert all(row["state"] == "running" and 0 < row["memory_mb"] < 500 for row in rows.values())
    said = up.stderr + status.stdout + status.stderr + (Path(data) / "up.log").read_text()
    said += (Path(data) / "logs" / "up.log").read_text()
    for secret in json.loads((Path(data) / "secrets.json").read_text()).values():
        assert secret not in said
        assert all(secret not in command for command in processes_of(Path(data)).values())

    parts_are_shown_and_restarted(data, env)

    ready = read_ready(Path(data) / "ready.json")
    again = muster("up", "--ephemeral", "--data", data, env=env)
    assert (again.returncode, "in use" in again.stderr) == (5, True)
    assert ready == read_ready(Path(data) / "ready.json")

    down = muster("down", "--data", data, env=env)
    assert (down.returncode, down.stdout) == (0, "")
    assert processes_of(Path(data)) == {}
    assert read_ready(Path(data) / "ready.json") is None
    assert muster("status", "--data", data, env=env).returncode == 7
    assert muster("down", "--data", data, env=env).returncode == 0


def parts_are_shown_and_restarted(data: str, env: dict[str, str]) -> None:
    def rows() -> dict[str, dict[str, Any]]:
        shown = muster("ps", "--data", data, "-o", "json", env=env)
        return {row["name"]: row for row in json.loads(shown.stdout)}

    before = rows()
    assert {name for name, row in before.items() if row["port"]} == {
        *("nats", "postgres", "management_api", "sandbox_gateway")
    }
    with subprocess.Popen(
        [sys.executable, *MUSTER, "logs", "up", "-f", "--data", data], stdout=subprocess.PIPE, env={**os.environ, **env}
    ) as following:
        assert following.stdout
        following.stdout.readline()  # The last lines have been read, and the folder is watched.
        restarted = muster("restart", "guardian", "api", "--data", data, env=env)
        assert (restarted.returncode, restarted.stdout) == (0, "")
        for written in following.stdout:
            if b"part=management_api" in written and b"restarted" in written:
                break
        following.send_signal(signal.SIGINT)
        assert following.wait(30) == 130
    after = rows()
    changed = {name for name, row in after.items() if row["pid"] != before[name]["pid"]}
    assert changed == {"guardian", "management_api"}
    assert all(after[name]["started_at"] > before[name]["started_at"] for name in changed)
    assert all(row["restarts"] == 0 and row["state"] == "running" for row in after.values())

    logs = muster("logs", "nats", "up", "--since", "10m", "-o", "jsonl", "--data", data, env=env)
    assert {json.loads(line)["log"] for line in logs.stdout.splitlines()} == {"nats", "up"}
    text = muster("logs", "nats", "-n", "1", "--data", data, env=env).stdout
    assert re.fullmatch(r"\d\d:\d\d:\d\d  info     .+\n", text)


def test_failed_detached_start_prints_its_cause(tmp_path: Path, env: dict[str, str]) -> None:
    data = tmp_path / "muster"
    data.mkdir()
    (data / "postgres").write_text("in its way")

    failed = muster("up", "--ephemeral", "--detach", "--data", str(data), env=env)

    assert failed.returncode not in (0, None)
    assert failed.stdout == ""
    progress, _, error = failed.stderr.partition("muster: the stack did not start: ")
    assert [line.split()[:2] for line in progress.splitlines()] == [["postgres", "failed"]]
    assert error
    assert failed.stderr.count("muster: ") == 1
    assert "{" not in failed.stderr
    assert "" not in failed.stderr.splitlines()
    assert str(data / "up.log") in failed.stderr


def test_the_error_of_a_failed_start_is_read_from_the_log() -> None:
    log = """
{"event": "stack part stopped", "level": "info"}
muster: guardian exited with 2 before it was ready. The end of its log:
{"event": "cannot start", "level": "error", "error": "no stream"}

"""
    assert startup_error(log) == (
        'guardian exited with 2 before it was ready. The end of its log:\nerror    cannot start  error="no stream"'
    )
    assert startup_error('{"event": "x"}\nTraceback\nKeyError: 1\n') == "Traceback\nKeyError: 1"


@pytest.mark.stress
def test_detached_ephemeral_stack_deletes_its_directory(tmp_path: Path, env: dict[str, str]) -> None:
    ready_file = tmp_path / "ready.json"
    env["TMPDIR"] = str(tmp_path)
    up = muster("up", "--ephemeral", "--detach", "--ready-file", str(ready_file), "-o", "json", env=env)
    assert up.returncode == 0, up.stderr
    told = json.loads(up.stdout)
    assert set(told) == {"api_url", "gateway_url", "pids", "pid", "data_dir"}
    data = Path(told["data_dir"])
    assert data.exists()

    assert muster("down", "--ready-file", str(ready_file), env=env).returncode == 0
    assert not data.exists()
    assert not ready_file.exists()


def test_doctor_names_blocking_problems_and_remedies(tmp_path: Path, env: dict[str, str]) -> None:
    fine = muster("doctor", "--data", str(tmp_path), "-o", "json", env=env)
    checks = {row["check"]: row for row in json.loads(fine.stdout)}
    assert {"python", "nats", "postgres", "user", "isolation", "disk", "port 8700"} <= set(checks)
    blocking = [row for row in checks.values() if row["verdict"] == "blocks"]
    assert fine.returncode == bool(blocking)
    assert all(row["remedy"] for row in blocking)

    full = muster("doctor", "--data", "/proc/nowhere", "-o", "json", env=env)
    assert full.returncode == 1
    assert next(row for row in json.loads(full.stdout) if row["check"] == "disk")["verdict"] == "blocks"


def test_help_imports_nothing_heavy() -> None:
    heavy = ("asyncio", "rich", "nats", "msgspec", "muster.embedded", "muster.cli.commands.stack.up")
    code = f"import sys, muster.cli.app as a; a.muster.main(['--help'], standalone_mode=False); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n"), done.stdout


def test_a_wrong_command_is_a_usage_error(env: dict[str, str]) -> None:
    wrong = muster("upp", env=env)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "muster --help" in wrong.stderr
