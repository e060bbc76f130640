"""`/api/v1/audit`: who did what."""

from typing import Annotated

from fastapi import Query

from muster.common.contracts.identity import AuditPage
from muster.management_api.domain.principals import Principal
from muster.management_api.domain.queries import AuditQuery
from muster.management_api.routes.openapi import refuses
from muster.management_api.routes.parts import part
from muster.management_api.routes.requires import requires
from muster.management_api.routes.route import router
from muster.management_api.store.audit_table import AuditTable
from muster.management_api.store.paging import Place

audit = router("/api/v1/audit", "access")


@audit.get("", responses=refuses(422))
async def list_audit(
    query: Annotated[AuditQuery, Query()],
    _: Annotated[Principal, requires("admin", "audit:read")],
    table: Annotated[AuditTable, part(AuditTable)],
) -> AuditPage:
    """Entries of every service, newest first; `next_cursor` continues."""
    after = Place.parse(query.cursor) if query.cursor else None
    entries, place = await table.page(query, after)
    return AuditPage(entries=entries, next_cursor=place.cursor() if place else None)
