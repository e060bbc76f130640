"""The demo with real OpenHands agents on a real stack: one agent is steered, one is killed and replaced.

`make test` runs the tasks on the stack that other tests use too; `make stress` also runs the command `muster demo`.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from muster.cli.demo.cases import CASES, PROVIDER
from muster.cli.demo.progress_view import ProgressLines
from muster.cli.demo.proof import prove
from muster.cli.demo.report import StackReport, report
from muster.cli.demo.repositories import make_repository
from muster.cli.demo.task_runner import DemoTaskRunner
from muster.client import AsyncMuster
from muster.common.clock import utc_now
from muster.common.ids import new_id
from tests.support.stack import MARKER, processes_of
from tests.support.whole_stack import WholeStack

DEADLINE_S = 120.0


async def run_demo(*options: str, tmp_path: Path) -> tuple[int, bytes, str, str]:
    """Run the demo below `tmp_path`; return exit code, stdout, stderr and the marker of its processes."""
    marker = new_id("req")
    demo = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "muster.cli", "demo", *options),
        cwd=tmp_path,
        env={**os.environ, MARKER: marker, "TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await demo.communicate()
    finally:
        if demo.returncode is None:
            demo.kill()
            await demo.wait()
    return demo.returncode or 0, out, err.decode(), marker


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def assert_all_of_it_happened(told: dict[str, Any]) -> None:
    assert told["ok"] is True, told
    assert told["provider"] == "scripted"
    assert told["verify"] == {"ok": True, "sandboxes": 4}
    bugfix, loop, crash = told["tasks"]
    assert [len(task["attempts"]) for task in (bugfix, loop, crash)] == [1, 1, 2]
    for task in (bugfix, loop, crash):
        assert task["state"] == "completed"
        assert task["proof"]["failed_before"]
        assert task["proof"]["passed"]
        assert task["tokens"] > 0
    (said,) = [one for one in loop["interventions"] if one["outcome"] == "heeded"]
    assert [receipt["stage"] for receipt in said["receipts"]] == ["issued", "stored", "delivered", "seen", "outcome"]
    assert all(receipt["cites"] for receipt in said["receipts"])
    lost, second = crash["attempts"]
    assert crash["killed"]["sandbox_id"] == lost["sandbox_id"] != second["sandbox_id"]
    assert lost["state"] in ("lost", "fenced")


@pytest.mark.stress
@pytest.mark.timeout(150)
async def test_demo_completes_one_agent_steers_one_and_replaces_one(whole: WholeStack, tmp_path: Path) -> None:
    now = asyncio.get_running_loop().time
    place = whole.repositories / new_id("req")
    repositories = {case.name: await make_repository(case, place) for case in CASES}
    view, models = ProgressLines(Console(stderr=True), now), {case.name: f"{PROVIDER}/{case.name}" for case in CASES}
    async with AsyncMuster(whole.stack.api_url, whole.stack.admin_key) as client:
        drive = DemoTaskRunner(client, view, models=models, ends_at_s=now() + DEADLINE_S, now=utc_now)
        outcomes = await drive.run(CASES, repositories)
    proven = [
        msgspec.structs.replace(
            outcome,
            proof=await prove(
                repositories[outcome.case.name],
                (outcome.task and outcome.task.diff) or "",
                tmp_path / outcome.case.name,
            ),
        )
        for outcome in outcomes
    ]
    told = report(proven, provider=PROVIDER, seconds=0, stack=StackReport(ready_s=0, restarts={}))

    assert_all_of_it_happened(msgspec.to_builtins(told))


@pytest.mark.stress
@pytest.mark.timeout(150)
async def test_demo_command_prints_a_true_report(tmp_path: Path) -> None:
    code, out, err, marker = await run_demo("--json", tmp_path=tmp_path)

    assert code == 0, f"{err}\n{out.decode()}"
    assert_all_of_it_happened(msgspec.json.decode(out))
    assert processes_of(tmp_path, marker) == {}
    assert left_in(tmp_path) == []


@pytest.mark.stress
@pytest.mark.timeout(200)
async def test_demo_plays_the_whole_main_job_in_sandboxes_of_daytona(tmp_path: Path) -> None:
    """The kill and the steering too: the double runs the workers as real processes, behind the real SDK over HTTP."""
    code, out, err, marker = await run_demo("--provider", "daytona-double", "--json", tmp_path=tmp_path)

    assert code == 0, f"{err}\n{out.decode()}"
    told = msgspec.json.decode(out)
    assert_all_of_it_happened(told)
    assert told["stack"]["isolation"] == "none (double of Daytona)"
    for task in told["tasks"]:
        assert {attempt["isolation"] for attempt in task["attempts"]} == {"daytona"}
    assert processes_of(tmp_path, marker) == {}
    assert left_in(tmp_path) == []
