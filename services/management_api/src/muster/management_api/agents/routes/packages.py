"""`/api/v1/packages`, `/api/v1/capabilities`: packages of agents, and what they can do."""

from muster.common.contracts.agent_registry import CapabilityList, ListCapabilities
from muster.common.contracts.packages import ListPackages, PackageList
from muster.management_api.agents.routes.agents import Viewer
from muster.management_api.http.parts import Services
from muster.management_api.http.route import routes_of

router = routes_of("/api/v1", "agents")


@router.get("/packages")
async def list_packages(_: Viewer, services: Services) -> PackageList:
    """List every package folder that was found; a broken one has the reason why it cannot be used."""
    return await services.ask(ListPackages())


@router.get("/capabilities")
async def list_capabilities(_: Viewer, services: Services) -> CapabilityList:
    """List every capability, the packages that have it, and the number of agents."""
    return await services.ask(ListCapabilities())
