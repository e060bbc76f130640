"""What clients may ask for in a query string, and within which bounds."""

from typing import Annotated

import msgspec

from muster.common.contracts.agents import AgentState
from muster.common.contracts.limits import DEFAULT_LINES, DEFAULT_PAGE, LARGEST_PAGE, MOST_CURSOR_CHARS, MOST_LINES
from muster.common.contracts.packages import Mode
from muster.common.contracts.tasks import TaskState
from muster.management_api.domain.position import MOST_TOKEN_CHARS
from muster.management_api.domain.requests import Name, Strict, Word, unspaced

Page = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_PAGE)]
Cursor = Annotated[str, unspaced(MOST_CURSOR_CHARS)]
Label = Annotated[
    str, msgspec.Meta(pattern=r"^[^=\x00]+=[^\x00]*$", max_length=256, description="must be written NAME=VALUE")
]
Start = Annotated[
    str, msgspec.Meta(pattern="^[ -.0-~]{1,64}$", description="may hold printable ASCII without /, 1 to 64 characters")
]


Labels = Annotated[list[Label], msgspec.Meta(max_length=16)]


def named(labels: Labels) -> dict[str, str]:
    """The labels asked for; of two values for one key the last counts."""
    return dict(label.split("=", 1) for label in labels)


class TaskQuery(Strict):
    """Which tasks to list: those that match every filter given. `label` is `key=value`, and may be repeated."""

    state: TaskState | None = None
    project: Name | None = None
    label: Labels = []
    cursor: Cursor | None = None
    limit: Page = DEFAULT_PAGE

    @property
    def labels(self) -> dict[str, str]:
        """The labels asked for."""
        return named(self.label)


class SandboxQuery(Strict):
    """Which sandboxes to list."""

    task_id: Name | None = None


class FeedQuery(Strict):
    """From where a feed is read, and whether beyond the present."""

    after: Annotated[str, unspaced(MOST_TOKEN_CHARS)] | None = None
    follow: bool = True


class AgentQuery(Strict):
    """Which agents to list: those that match every filter given. `label` is `key=value`, and may be repeated."""

    state: AgentState | None = None
    package: Name | None = None
    mode: Mode | None = None
    capability: Word | None = None
    label: Labels = []
    name_starts: Start | None = None
    cursor: Cursor | None = None
    limit: Page = DEFAULT_PAGE

    @property
    def labels(self) -> dict[str, str]:
        """The labels asked for."""
        return named(self.label)


class AgentFeedQuery(Strict):
    """From where an agent's events are read, and whether beyond the present. `limit` is for a page of JSON."""

    after: Cursor | None = None
    follow: bool = True
    limit: Page = DEFAULT_PAGE


class LogQuery(Strict):
    """Which lines of an agent's output. Without a cursor the last `limit`; `wait_s`: for a line, if there is none."""

    cursor: Cursor | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_LINES)] = DEFAULT_LINES
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=30)] = 0.0
    follow: bool | None = None
