"""The kill matrix on the real coding agent: the gateway it talks to is killed in mid-run (the worker: `test_demo.py`)."""

import pytest

from muster.cli.demo.cases import CRASH, TEST_COMMAND
from muster.cli.demo.repositories import make_repository
from tests.support.fleet import Fleet
from tests.support.whole_stack import WholeStack

pytestmark = [pytest.mark.timeout(180), pytest.mark.stress]


async def test_openhands_goes_on_when_its_gateway_is_killed(whole: WholeStack, fleet: Fleet) -> None:
    repository = await make_repository(CRASH, whole.repositories / "survives")
    task = await fleet.submit(
        CRASH.objective,
        package="openhands",
        model=f"scripted/{CRASH.name}",
        repo={"url": repository.as_uri()},
        test_command=TEST_COMMAND,
    )
    await fleet.until_logged(task.task_id, 4, wait_s=90)
    await whole.stack.kill("sandbox_gateway")
    task = await fleet.ended(task.task_id, wait_s=90)

    assert task.state == "completed", task
    assert [attempt.epoch for attempt in task.attempts] == [1]
    assert task.diff
    await fleet.assert_proven(task)
