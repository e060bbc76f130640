"""Which entries of the audit somebody may ask for."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from muster.common.contracts.limits import DEFAULT_PAGE
from muster.management_api.domain.queries import Cursor, Page
from muster.management_api.domain.requests import Strict, storable

Word = Annotated[str, storable(128)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class AuditQuery(Strict):
    """Which entries: those that match every filter given. `since` is included, `until` is not."""

    who: Word | None = None
    action: Word | None = None
    service: Word | None = None
    outcome: Literal["done", "refused"] | None = None
    trace_id: Word | None = None
    since: Moment | None = None
    until: Moment | None = None
    cursor: Cursor | None = None
    limit: Page = DEFAULT_PAGE
