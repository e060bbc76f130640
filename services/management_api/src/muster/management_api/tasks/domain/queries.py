"""Query parameters of the routes of tasks."""

from typing import Annotated

from muster.common.contracts.tasks import TaskState
from muster.management_api.http.queries import LabelQuery, Name, Query, unspaced
from muster.management_api.tasks.domain.task_cursor import MOST_TOKEN_CHARS

Position = Annotated[str, unspaced(MOST_TOKEN_CHARS)]


class TaskQuery(LabelQuery):
    """Which tasks to list: those that match every filter given."""

    state: TaskState | None = None
    project: Name | None = None


class FeedQuery(Query):
    """From where a feed is read, and whether beyond the present."""

    after: Position | None = None
    follow: bool = True
