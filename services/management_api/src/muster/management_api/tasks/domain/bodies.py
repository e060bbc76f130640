"""Bodies of requests about tasks. An unknown field is refused, and every value has its bounds."""

from typing import Annotated, Any

import msgspec

from muster.common.contracts.gateway import Repo
from muster.common.contracts.tasks import Priority, SubmitTask
from muster.management_api.http.bodies import Labels, Line, Name, Path, RequestBody, Said, visible


class NewRepo(RequestBody):
    """A git repository to clone, and what to check out."""

    url: Annotated[str, visible(1_000)]
    ref: Line | None = None


class NewTask(RequestBody):
    """`SubmitTask` without its id, which the API mints."""

    objective: Annotated[str, visible(65_000)]
    repo: NewRepo | None = None
    agent_id: Name | None = None
    package: Name | None = None
    model: Annotated[str, visible(200)] | None = None
    test_command: Annotated[str, visible(8_000)] | None = None
    paths: Annotated[list[Path], msgspec.Meta(max_length=100)] = []
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 300.0
    priority: Priority = "NORMAL"
    project: Name | None = None
    labels: Labels = {}
    depends_on: Annotated[list[Name], msgspec.Meta(max_length=100)] = []
    ticket_id: Name | None = None
    phase_id: Name | None = None
    metadata: dict[str, Any] = {}

    def command(self, task_id: str, *, project: str = "default") -> SubmitTask:
        """As the manager takes it. `project`: unless the request names one."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__}
        fields["project"] = self.project or project
        if self.repo is not None:
            fields["repo"] = Repo(url=self.repo.url, ref=self.repo.ref)
        return SubmitTask(task_id=task_id, **fields)


class NewMessage(RequestBody):
    """Something to say to the agent at work."""

    text: Said
    urgent: bool = False


class Cancellation(RequestBody):
    """Why a task is ended."""

    reason: Line = "cancelled by request"
