"""The query parameters of the routes for tasks."""

from typing import Annotated

from muster.common.contracts.tasks import TaskState
from muster.management_api.http.queries import LabelQuery, Name, Query, unspaced
from muster.management_api.tasks.domain.task_cursor import MOST_TOKEN_CHARS

Position = Annotated[str, unspaced(MOST_TOKEN_CHARS)]


class TaskQuery(LabelQuery):
    """The filters of the list of tasks. A task must match all filters."""

    state: TaskState | None = None
    project: Name | None = None


class FeedQuery(Query):
    """The start of a task's feed, and whether the feed continues with later events."""

    after: Position | None = None
    follow: bool = True
