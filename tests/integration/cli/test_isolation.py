"""Commands that start a stack check the isolation of agents and report it."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from muster.cli.app import muster
from muster.embedded.ready import Ready
from muster.embedded.stack_directory import locked
from tests.support.stack import running_stack
from tests.support.unisolated import run_where_nothing_isolates

pytestmark = pytest.mark.isolation

MUSTER = [sys.executable, "-m", "muster.cli"]


@pytest.mark.parametrize("command", [["up", "--ephemeral"], ["demo"]])
def test_stack_is_refused_on_a_machine_without_isolation(tmp_path: Path, command: list[str]) -> None:
    refused = run_where_nothing_isolates([*MUSTER, *command], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert refused.returncode == 1
    assert refused.stderr.startswith("muster: agents cannot be isolated on this machine: ")
    assert "--isolation plain" in refused.stderr
    assert not list(tmp_path.iterdir()), "and nothing was started"


def test_doctor_reports_missing_isolation_with_advice(tmp_path: Path) -> None:
    told = run_where_nothing_isolates([*MUSTER, "doctor", "--data", str(tmp_path), "-o", "json"])
    row = next(row for row in json.loads(told.stdout) if row["check"] == "isolation")
    assert told.returncode == 1
    assert row["verdict"] == "blocks"
    assert "--isolation plain" in row["remedy"]


def test_doctor_names_the_level_that_the_setting_permits_and_why_stronger_ones_do_not_work(tmp_path: Path) -> None:
    env = {**os.environ, "MUSTER_ISOLATION_AT_LEAST": "landlock"}
    told = run_where_nothing_isolates([*MUSTER, "doctor", "--data", str(tmp_path), "-o", "json"], env=env)
    row = next(row for row in json.loads(told.stdout) if row["check"] == "isolation")
    assert row["verdict"] == "warn"
    assert row["found"].startswith("landlock: ")
    assert "bubblewrap does not work" in row["found"]
    assert "pid-namespace does not work" in row["found"]
    assert row["found"].endswith("MUSTER_ISOLATION_AT_LEAST permits landlock and stronger levels")
    assert "user namespaces" in row["remedy"]


def test_doctor_refuses_a_setting_that_is_no_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_ISOLATION_AT_LEAST", "walls")
    told = CliRunner().invoke(muster, ["doctor", "--data", str(tmp_path), "-o", "json"])
    row = next(row for row in json.loads(told.stdout) if row["check"] == "isolation")
    assert row["verdict"] == "blocks"
    assert "bubblewrap, landlock, pid-namespace, plain" in row["found"]


@pytest.mark.parametrize("isolation", ["bubblewrap", "plain"])
def test_status_names_the_isolation(tmp_path: Path, isolation: str) -> None:
    Ready(
        api_url="http://api",
        gateway_url="http://gateway",
        nats_url="nats://",
        database_url="postgresql://",
        admin_key="key",
        pids={},
        pid=os.getpid(),
        data_dir=str(tmp_path),
        version="1",
        isolation=isolation,
    ).write(tmp_path / "ready.json")
    with locked(tmp_path):
        shown = CliRunner().invoke(muster, ["status", "--data", str(tmp_path)])
        told = CliRunner().invoke(muster, ["status", "--data", str(tmp_path), "-o", "json"])
    assert f"isolation {isolation}" in shown.stderr
    assert ("without isolation" in shown.stderr) == (isolation == "plain")
    assert json.loads(told.stdout)["isolation"] == isolation


@pytest.mark.stress
async def test_a_plain_stack_says_so_at_start_on_each_sandbox_and_on_each_attempt(tmp_path: Path) -> None:
    async with running_stack(tmp_path, "--isolation", "plain") as stack:
        assert "without isolation" in stack.log()
        assert stack.ready.isolation == "plain"
        data = ["--data", str(stack.data_dir), "-o", "json"]
        [task] = await _json("task", "submit", "hello", "--package", "echo", "--wait", *data)
        assert [attempt["isolation"] for attempt in task["attempts"]] == ["plain"]
        sandboxes = await _json("sandbox", "list", *data)
        assert [sandbox["isolation"] for sandbox in sandboxes] == ["plain"]


async def _json(*words: str) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(*MUSTER, *words, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(said)
