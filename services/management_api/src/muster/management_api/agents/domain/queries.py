"""The query parameters of the routes for agents."""

from typing import Annotated

from pydantic import Field

from muster.common.contracts.agents import AgentState
from muster.common.contracts.limits import DEFAULT_LINES, DEFAULT_PAGE, MOST_LINES
from muster.common.contracts.packages import Mode
from muster.management_api.http.queries import Cursor, LabelQuery, Name, Page, Query, Start, Word


class AgentQuery(LabelQuery):
    """The filters of the list of agents. An agent must match all filters."""

    state: AgentState | None = None
    package: Name | None = None
    mode: Mode | None = None
    capability: Word | None = None
    name_starts: Start | None = None


class AgentFeedQuery(Query):
    """The start of an agent's feed, and whether it continues with later events. `limit` is only used for JSON pages."""

    after: Cursor | None = None
    follow: bool = True
    limit: Page = DEFAULT_PAGE


class LogQuery(Query):
    """The selection of an agent's output lines: the lines after `cursor`, or without a cursor the last `limit` lines.

    If there is no line, the API waits up to `wait_s` seconds for a line.
    """

    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_LINES)] = DEFAULT_LINES
    wait_s: Annotated[float, Field(ge=0, le=30)] = 0.0
    follow: bool | None = None
