"""What clients may ask for in a query string, and within which bounds."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from muster.common.contracts.agents import AgentState
from muster.common.contracts.limits import DEFAULT_LINES, DEFAULT_PAGE, LARGEST_PAGE, MOST_CURSOR_CHARS, MOST_LINES
from muster.common.contracts.packages import Mode
from muster.common.contracts.tasks import TaskState
from muster.management_api.domain.position import MOST_TOKEN_CHARS
from muster.management_api.domain.requests import NAME, UNSPACED, refuse_outside_calendar

_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _refuse_numbers(value: str) -> str:
    """The text itself. Raises `ValueError` for a number, which pydantic would take for seconds since 1970."""
    if not _DATE.match(value):
        raise ValueError("must be a time such as 2026-01-31T12:00:00Z")
    return value


def _unspaced(most: int) -> StringConstraints:
    return StringConstraints(min_length=1, max_length=most, pattern=UNSPACED)


Page = Annotated[int, Field(ge=1, le=LARGEST_PAGE)]
Cursor = Annotated[str, _unspaced(MOST_CURSOR_CHARS)]
Position = Annotated[str, _unspaced(MOST_TOKEN_CHARS)]
Name = Annotated[str, StringConstraints(pattern=NAME)]
Word = Annotated[str, _unspaced(64)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
Label = Annotated[str, StringConstraints(pattern=r"^[^=\x00]+=[^\x00]*$", max_length=256)]
Start = Annotated[str, StringConstraints(pattern="^[ -.0-~]{1,64}$")]
Labels = Annotated[list[Label], Field(max_length=16, description="`key=value`; may be repeated.")]
Moment = Annotated[AwareDatetime, BeforeValidator(_refuse_numbers), AfterValidator(refuse_outside_calendar)]


class Query(BaseModel):
    """A query string. An unknown parameter is a mistake."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(Query):
    """Which page of a list."""

    cursor: Cursor | None = None
    limit: Page = DEFAULT_PAGE


class LabelQuery(PageQuery):
    """A page of what has labels."""

    label: Labels = []

    @property
    def filters(self) -> dict[str, Any]:
        """Every parameter that was given; of two values for one label the last counts."""
        return self.model_dump(exclude={"label"}) | {"labels": dict(label.split("=", 1) for label in self.label)}


class TaskQuery(LabelQuery):
    """Which tasks to list: those that match every filter given."""

    state: TaskState | None = None
    project: Name | None = None


class SandboxQuery(Query):
    """Which sandboxes to list."""

    task_id: Name | None = None


class FeedQuery(Query):
    """From where a feed is read, and whether beyond the present."""

    after: Position | None = None
    follow: bool = True


class AgentQuery(LabelQuery):
    """Which agents to list: those that match every filter given."""

    state: AgentState | None = None
    package: Name | None = None
    mode: Mode | None = None
    capability: Word | None = None
    name_starts: Start | None = None


class AgentFeedQuery(Query):
    """From where an agent's events are read, and whether beyond the present. `limit` is for a page of JSON."""

    after: Cursor | None = None
    follow: bool = True
    limit: Page = DEFAULT_PAGE


class LogQuery(Query):
    """Which lines of an agent's output. Without a cursor the last `limit`; `wait_s`: for a line, if there is none."""

    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_LINES)] = DEFAULT_LINES
    wait_s: Annotated[float, Field(ge=0, le=30)] = 0.0
    follow: bool | None = None


class KeyQuery(PageQuery):
    """Which keys to list: all that the caller may see, or one user's."""

    user_id: Name | None = None


class AuditQuery(PageQuery):
    """Which entries: those that match every filter given. `since` is included, `until` is not."""

    who: Text | None = None
    action: Text | None = None
    service: Text | None = None
    outcome: Literal["done", "refused"] | None = None
    trace_id: Text | None = None
    since: Moment | None = None
    until: Moment | None = None
