"""Query parameters of the routes of tasks."""

from typing import Annotated

from muster.common.contracts.tasks import TaskState
from muster.management_api.http.queries import LabelQuery, Name, Query, unspaced
from muster.management_api.tasks.domain.task_cursor import MOST_TOKEN_CHARS

Position = Annotated[str, unspaced(MOST_TOKEN_CHARS)]


class TaskQuery(LabelQuery):
    """Filters of the list of tasks: a task must match all of them."""

    state: TaskState | None = None
    project: Name | None = None


class FeedQuery(Query):
    """Where a feed begins, and whether it goes on beyond the present."""

    after: Position | None = None
    follow: bool = True
