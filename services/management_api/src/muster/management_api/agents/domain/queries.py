"""Query parameters of the routes of agents."""

from typing import Annotated

from pydantic import Field

from muster.common.contracts.agents import AgentState
from muster.common.contracts.limits import DEFAULT_LINES, DEFAULT_PAGE, MOST_LINES
from muster.common.contracts.packages import Mode
from muster.management_api.http.queries import Cursor, LabelQuery, Name, Page, Query, Start, Word


class AgentQuery(LabelQuery):
    """Filters of the list of agents: an agent must match all of them."""

    state: AgentState | None = None
    package: Name | None = None
    mode: Mode | None = None
    capability: Word | None = None
    name_starts: Start | None = None


class AgentFeedQuery(Query):
    """Where a feed of an agent begins, and whether it goes on beyond the present. `limit` is for a page of JSON."""

    after: Cursor | None = None
    follow: bool = True
    limit: Page = DEFAULT_PAGE


class LogQuery(Query):
    """Which lines of output to return: without a cursor the last `limit`. `wait_s`: seconds to wait for a line."""

    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_LINES)] = DEFAULT_LINES
    wait_s: Annotated[float, Field(ge=0, le=30)] = 0.0
    follow: bool | None = None
