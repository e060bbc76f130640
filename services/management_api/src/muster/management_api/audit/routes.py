"""The route `/api/v1/audit`, which lists the audit entries: the caller, the action and the time of each write."""

from typing import Annotated

from fastapi import Query

from muster.common.contracts.access import AuditPage
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.audit.domain import AuditQuery
from muster.management_api.audit.store import AuditTable
from muster.management_api.http.application_parts import part
from muster.management_api.http.openapi import refuses
from muster.management_api.http.route import routes_of

router = routes_of("/api/v1/audit", "access")


@router.get("", responses=refuses(422))
async def list_audit(
    query: Annotated[AuditQuery, Query()],
    _: Annotated[Principal, requires("admin", "audit:read")],
    table: Annotated[AuditTable, part(AuditTable)],
) -> AuditPage:
    """List the audit entries of all services, newest first. `next_cursor` is the cursor of the next page."""
    return await table.page(query)
