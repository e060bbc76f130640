"""The task that `muster task retry` submits."""

from muster.cli.commands.task.submission import repeated
from muster.common.clock import utc_now
from muster.common.contracts.task_bodies import NewRepo, NewTask
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.tasks import TaskView

GIVEN = {
    "objective": "fix",
    "test_command": "make",
    "paths": ["src/**"],
    "timeout_s": 7.0,
    "priority": "HIGH",
    "labels": {"a": "b"},
    "depends_on": ["tsk_1"],
    "metadata": {"k": [1]},
    "env": {"A": "b"},
    "package": "echo",
    "model": "m",
    "project": "alpha",
}


def view(**fields: object) -> TaskView:
    state = {"task_id": "tsk_2", "state": "failed", "version": 9, "created_at": utc_now(), "updated_at": utc_now()}
    return TaskView(**(GIVEN | state | {"agent_id": "agt_of_the_last_attempt"} | fields))  # pyright: ignore[reportArgumentType]


def test_retry_repeats_every_field_that_the_submitter_gave():
    before = view(repo=Repo(url="https://x/y", ref="main"))

    assert repeated(before) == NewTask(**GIVEN, repo=NewRepo(url="https://x/y", ref="main"))  # pyright: ignore[reportArgumentType]


def test_retry_goes_to_the_agent_that_the_submitter_named_and_to_no_other():
    assert repeated(view(wanted_agent_id="agt_named")).agent_id == "agt_named"
    assert repeated(view()).agent_id is None
