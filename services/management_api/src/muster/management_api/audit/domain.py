"""Query parameters of the routes of the audit."""

from typing import Literal

from muster.management_api.http.queries import (
    Moment,
    PageQuery,
    Text,
)


class AuditQuery(PageQuery):
    """Filters of audit entries: an entry must match all of them. `since` is included, `until` is not."""

    who: Text | None = None
    action: Text | None = None
    service: Text | None = None
    outcome: Literal["done", "refused"] | None = None
    trace_id: Text | None = None
    since: Moment | None = None
    until: Moment | None = None
