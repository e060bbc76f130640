"""Calls the API's routes for agent packages and capabilities."""

from muster.client._async.connection import AsyncApiConnection
from muster.common.contracts.agent_registry import CapabilityList
from muster.common.contracts.packages import PackageList


class AsyncPackageCalls:
    """The API calls about agent packages, available as `client.packages`."""

    def __init__(self, connection: AsyncApiConnection) -> None:
        self._call = connection.call

    async def list(self) -> PackageList:
        """Return all agent packages. An entry for an unusable package contains the reason."""
        return await self._call("GET", "/api/v1/packages", PackageList)


class AsyncCapabilityCalls:
    """The API calls about capabilities, available as `client.capabilities`."""

    def __init__(self, connection: AsyncApiConnection) -> None:
        self._call = connection.call

    async def list(self) -> CapabilityList:
        """Return the capabilities of the registered agents."""
        return await self._call("GET", "/api/v1/capabilities", CapabilityList)
