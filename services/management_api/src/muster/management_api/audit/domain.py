"""The query parameters of the route that lists audit entries."""

from typing import Literal

from muster.management_api.http.queries import (
    Moment,
    PageQuery,
    Text,
)


class AuditQuery(PageQuery):
    """The filters of the list of audit entries. An entry must match all filters.

    The time `since` is included, and the time `until` is excluded.
    """

    who: Text | None = None
    action: Text | None = None
    service: Text | None = None
    outcome: Literal["done", "refused"] | None = None
    trace_id: Text | None = None
    since: Moment | None = None
    until: Moment | None = None
