"""`muster demo`, whole: real OpenHands agents on a real stack, one steered, one killed and replaced."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muster.common.ids import new_id
from tests.support.stack import MARKER, processes_of

DEADLINE_S = 120.0


async def run_demo(*options: str, tmp_path: Path) -> tuple[int, bytes, str, str]:
    """Exit code, stdout, stderr, and the marker its processes carry; all it writes is below `tmp_path`."""
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


@pytest.mark.timeout(150)
async def test_the_demo_really_does_what_it_says(tmp_path: Path) -> None:
    code, out, err, marker = await run_demo("--json", tmp_path=tmp_path)

    assert code == 0, f"{err}\n{out.decode()}"
    report: dict[str, Any] = msgspec.json.decode(out)
    assert report["ok"] is True
    assert report["provider"] == "scripted"
    assert report["verify"] == {"ok": True, "sandboxes": 4}
    bugfix, loop, crash = report["tasks"]
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
    assert processes_of(tmp_path, marker) == {}
    assert left_in(tmp_path) == []
