"""Makes the command that submits a task from the body of a request."""

from typing import Any

from muster.common.contract import fields_of
from muster.common.contracts.task_bodies import NewTask
from muster.common.contracts.task_spec import Deliver, Repo
from muster.common.contracts.tasks import SubmitTask


def submit_command(new: NewTask, task_id: str, *, project: str = "default") -> SubmitTask:
    """Return the command that submits the task to the agent manager.

    The argument `project` is used if the request names no project.
    """
    fields: dict[str, Any] = {name: getattr(new, name) for name in new.__struct_fields__}
    fields["project"] = new.project or project
    if new.repo is not None:
        fields["repo"] = Repo(url=new.repo.url, ref=new.repo.ref)
    if new.deliver is not None:
        fields["deliver"] = Deliver(**fields_of(Deliver, new.deliver))
    return SubmitTask(task_id=task_id, **fields)
