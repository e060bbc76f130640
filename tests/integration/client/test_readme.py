"""The code blocks of the client's README run unchanged."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents_double import agents_double
from tests.support.api import ADMIN_KEY, ApiProcess, Neighbours, neighbours
from tests.support.house import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "libs/client/README.md").read_text(), re.DOTALL)


async def complete_each_task(doubles: Neighbours) -> None:
    while True:
        await doubles.arrived.wait()
        doubles.arrived.clear()
        for task_id, view in list(doubles.tasks.items()):
            if view.state == "queued":
                await doubles.told(task_id, "completed", state="completed", summary="hello")


async def test_every_code_block_of_the_readme_runs(
    api: ApiProcess,
    nats_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSTER_API_URL", api.url)
    monkeypatch.setenv("MUSTER_API_KEY", ADMIN_KEY)
    names: dict[str, Any] = {}
    async with neighbours(nats_url) as doubles, agents_double(nats_url) as agents, asyncio.TaskGroup() as tasks:
        completing = tasks.create_task(complete_each_task(doubles))
        for block in BLOCKS:
            await asyncio.to_thread(exec, block, names)  # the thread has no event loop, as in a program
        completing.cancel()

    said = capsys.readouterr().out
    assert said.count("completed\n") >= 3, "two results and one event"
    assert "404 $.task_id there is no task tsk_unknown" in said
    assert [view.desired for view in agents.agents.values()] == ["running"]
    assert (tmp_path / "position").read_text(), "the program stored its position"
