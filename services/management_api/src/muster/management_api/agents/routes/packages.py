"""The routes `/api/v1/packages` and `/api/v1/capabilities`, which list agent packages and their capabilities."""

from muster.common.contracts.agent_registry import CapabilityList, ListCapabilities
from muster.common.contracts.packages import ListPackages, PackageList
from muster.management_api.agents.routes.agents import Viewer
from muster.management_api.http.application_parts import Services
from muster.management_api.http.route import routes_of

router = routes_of("/api/v1", "agents")


@router.get("/packages")
async def list_packages(_: Viewer, services: Services) -> PackageList:
    """List all agent packages that the agent manager has found. An invalid package is listed with its error."""
    return await services.ask(ListPackages())


@router.get("/capabilities")
async def list_capabilities(_: Viewer, services: Services) -> CapabilityList:
    """List all capabilities of agents. Each entry has the packages with this capability and the number of agents."""
    return await services.ask(ListCapabilities())
