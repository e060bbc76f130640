"""The gateway of the real coding agent is killed during a task. (`test_demo.py` kills the worker.)"""

import pytest

from muster.cli.demo.cases import CRASH, TEST_COMMAND
from muster.cli.demo.repositories import make_repository
from tests.support.fleet import Fleet
from tests.support.whole_stack import WholeStack

pytestmark = [pytest.mark.timeout(180), pytest.mark.stress]


async def test_openhands_continues_after_its_gateway_was_killed(whole: WholeStack, fleet: Fleet) -> None:
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
