"""`/api/v1/audit`: who did what."""

from collections.abc import Iterable

from starlette.responses import Response

from muster.common.contracts.identity import AuditPage
from muster.management_api.domain.audit import AuditQuery
from muster.management_api.routes.answers import answer
from muster.management_api.routes.operation import Asked, Operation
from muster.management_api.store.audit_table import AuditTable
from muster.management_api.store.paging import Place


class Audit:
    """The audit, for admins."""

    def __init__(self, table: AuditTable) -> None:
        self._table = table

    def operations(self) -> Iterable[Operation]:
        """The table."""
        return [
            Operation("GET", "/api/v1/audit", self.list, "list-audit", "Who did what, newest first", reply=AuditPage)
        ]

    async def list(self, asked: Asked[AuditQuery, None]) -> Response:
        """Entries of every service, newest first; `next_cursor` continues."""
        after = Place.parse(asked.query.cursor) if asked.query.cursor else None
        entries, place = await self._table.page(asked.query, after)
        return answer(AuditPage(entries=entries, next_cursor=place.cursor() if place else None))
