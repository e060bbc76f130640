"""Bodies of requests about tasks. An unknown field is refused, and every value has its bounds."""

from typing import Annotated, Any

from muster.common.contracts.fields import Line, Name, Said, visible
from muster.common.contracts.task_spec import Repo, TaskSpec
from muster.common.contracts.tasks import SubmitTask
from muster.management_api.http.bodies import RequestBody


class NewRepo(RequestBody, Repo):
    """A git repository to clone, and the ref to check out."""


class NewTask(RequestBody, TaskSpec):
    """The body that submits a task; the API creates the id."""

    repo: NewRepo | None = None
    agent_id: Name | None = None
    package: Name | None = None
    model: Annotated[str, visible(255)] | None = None
    project: Name | None = None

    def command(self, task_id: str, *, project: str = "default") -> SubmitTask:
        """Return the command for the agent manager; `project` counts unless the request names one."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__}
        fields["project"] = self.project or project
        if self.repo is not None:
            fields["repo"] = Repo(url=self.repo.url, ref=self.repo.ref)
        return SubmitTask(task_id=task_id, **fields)


class NewMessage(RequestBody):
    """A message to the agent that works on the task."""

    text: Said
    urgent: bool = False


class Cancellation(RequestBody):
    """Why a task is cancelled."""

    reason: Line = "cancelled by request"
