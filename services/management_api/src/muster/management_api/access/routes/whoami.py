"""The route `/api/v1/whoami`, which returns the caller's own name, role and limits."""

from typing import Annotated

from muster.common.contracts.access import WhoAmI
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.http.route import routes_of

router = routes_of("/api/v1/whoami", "access")


@router.get("")
async def whoami(caller: Annotated[Principal, requires("viewer", by_project=True)]) -> WhoAmI:
    """Return the caller's name and role, and the scopes and the project to which the caller's key is limited."""
    return caller.view
