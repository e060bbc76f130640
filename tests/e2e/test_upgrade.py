"""This release starts on the data directory of an earlier release and still knows all of its data."""

from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.fixtures.releases.make import PROCESS_AGENT, SANDBOX_AGENT, runs, unpack
from tests.support.eventually import eventually
from tests.support.fleet import Fleet
from tests.support.stack import running_stack

RELEASES = sorted((Path(__file__).parents[1] / "fixtures" / "releases").glob("*/data.tar.xz"))

KEPT_FOR_EVER = {
    f"MUSTER_{what}_KEPT_DAYS": "0" for what in ("TASKS", "AGENTS", "AGENT_LOGS", "COMMANDS", "AUDIT", "GUARDIAN")
}
"""An archive grows old, and what it holds would go by its age."""


def test_data_of_an_earlier_release_exists() -> None:
    assert RELEASES


@pytest.mark.stress
@pytest.mark.timeout(240)
@pytest.mark.parametrize("archive", RELEASES, ids=lambda archive: archive.parent.name)
async def test_stack_starts_on_the_data_of_an_earlier_release(archive: Path, tmp_path: Path) -> None:
    unpack(archive, tmp_path / "muster")
    async with running_stack(tmp_path, env=KEPT_FOR_EVER) as stack:
        fleet = Fleet(stack)
        status, body = await fleet.call("GET", "/api/v1/tasks")
        assert status == 200, body
        tasks = {task["objective"]: task["task_id"] for task in msgspec.json.decode(body)["tasks"]}
        assert tasks.keys() == {"a plain one", "one that is replaced", "one that repeats itself"}
        for objective, attempts in zip(sorted(tasks), (1, 2, 1), strict=True):
            task = await fleet.task(tasks[objective])
            assert (task.state, len(task.attempts)) == ("completed", attempts)
            await fleet.assert_proven(task)
        assert (await fleet.report(tasks["one that repeats itself"])).interventions

        status, body = await fleet.call("GET", "/api/v1/agents")
        assert status == 200, body
        agents = {agent["name"]: agent["agent_id"] for agent in msgspec.json.decode(body)["agents"] if agent["name"]}
        assert agents.keys() >= {PROCESS_AGENT, SANDBOX_AGENT}
        await eventually(partial(runs, fleet, agents[PROCESS_AGENT]))

        fresh = await fleet.ended((await fleet.submit("a new one")).task_id)
        assert fresh.state == "completed"
        await fleet.assert_proven(fresh)
