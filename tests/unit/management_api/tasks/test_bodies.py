"""The body that submits a task."""

import msgspec

from muster.common.contracts.task_bodies import NewTask
from muster.common.contracts.tasks import SubmitTask
from muster.management_api.tasks.domain.submission import submit_command


def test_a_new_task_has_the_fields_and_defaults_of_submit_task():
    ours = {field.name: field for field in msgspec.structs.fields(NewTask)}
    theirs = {field.name: field for field in msgspec.structs.fields(SubmitTask)}

    assert ours.keys() == theirs.keys() - {"task_id"}
    minimal, submitted = NewTask(objective="x"), SubmitTask(task_id="tsk_1", objective="x")
    assert submit_command(minimal, "tsk_1") == submitted
