"""`/api/v1/whoami`: who the API takes the caller for."""

from collections.abc import Iterable

from starlette.responses import Response

from muster.common.contracts.identity import WhoAmI
from muster.management_api.routes.answers import answer
from muster.management_api.routes.operation import Asked, Operation


class Caller:
    """The caller, told to himself."""

    def operations(self) -> Iterable[Operation]:
        """The table."""
        return [Operation("GET", "/api/v1/whoami", self.get, "whoami", "Who you are here", reply=WhoAmI)]

    async def get(self, asked: Asked[None, None]) -> Response:
        """Name, role, and to what a key is narrowed."""
        return answer(asked.caller.view)
