"""The bodies of HTTP requests about tasks. An unknown field is refused, and every value is limited."""

from typing import Annotated

from muster.common.contracts.fields import Line, Name, Said, visible
from muster.common.contracts.request_body import RequestBody
from muster.common.contracts.task_spec import Deliver, Repo, TaskSpec


class NewRepo(RequestBody, Repo):
    """A git repository that the task's sandbox clones, and the branch, tag or commit to check out."""


class NewDeliver(RequestBody, Deliver):
    """The branch and the pull request that the accepted result of a task is delivered to."""


class NewTask(RequestBody, TaskSpec):
    """The body of the request that submits a task. The API creates the task's id."""

    repo: NewRepo | None = None
    deliver: NewDeliver | None = None
    agent_id: Name | None = None
    package: Name | None = None
    model: Annotated[str, visible(255)] | None = None
    project: Name | None = None


class NewMessage(RequestBody):
    """The body of the request that sends a message to the agent that works on a task."""

    text: Said
    urgent: bool = False


class Cancellation(RequestBody):
    """The body of the request that cancels a task, with the reason."""

    reason: Line = "cancelled by request"
