"""`/api/v1/whoami`: the caller as the API knows it."""

from typing import Annotated

from muster.common.contracts.identity import WhoAmI
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.http.route import routes_of

router = routes_of("/api/v1/whoami", "access")


@router.get("")
async def whoami(caller: Annotated[Principal, requires("viewer", by_project=True)]) -> WhoAmI:
    """Return the caller's name and role, and what its key is narrowed to."""
    return caller.view
