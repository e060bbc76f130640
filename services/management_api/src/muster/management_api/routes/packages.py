"""`/api/v1/packages`, `/api/v1/capabilities`: what agents can be made from, and what they can do."""

from collections.abc import Iterable

from starlette.responses import Response

from muster.common.contracts.agent_registry import CapabilityList, ListCapabilities
from muster.common.contracts.packages import ListPackages, PackageList
from muster.management_api.adapters.neighbours import Neighbours
from muster.management_api.routes.answers import answer
from muster.management_api.routes.operation import Asked, Operation


class Packages:
    """Packages, for people."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours

    def operations(self) -> Iterable[Operation]:
        """The table."""
        of, packages = Operation, "/api/v1/packages"
        yield of("GET", packages, self.packages, "list-packages", "What agents are made from", reply=PackageList)
        path, says = "/api/v1/capabilities", "What the registered agents can do"
        yield of("GET", path, self.capabilities, "list-capabilities", says, reply=CapabilityList)

    async def packages(self, asked: Asked[None, None]) -> Response:
        """Every package folder that was found; a broken one with the reason why it cannot be used."""
        del asked
        return answer(await self._neighbours.ask(ListPackages()))

    async def capabilities(self, asked: Asked[None, None]) -> Response:
        """Every capability, the packages that have it, and how many agents."""
        del asked
        return answer(await self._neighbours.ask(ListCapabilities()))
