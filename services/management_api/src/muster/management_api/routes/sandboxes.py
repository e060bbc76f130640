"""`/api/v1/sandboxes`: look and verify."""

from collections.abc import Iterable

from starlette.responses import Response

from muster.common.contracts.gateway import GetSandbox, ListSandboxes, SandboxPage, SandboxView, Verdict
from muster.management_api.adapters.neighbours import Neighbours
from muster.management_api.domain.queries import SandboxQuery
from muster.management_api.routes.answers import answer
from muster.management_api.routes.operation import Asked, Operation

SANDBOXES = "/api/v1/sandboxes"
ONE = f"{SANDBOXES}/{{sandbox_id}}"


class Sandboxes:
    """Sandboxes, for people."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours

    def operations(self) -> Iterable[Operation]:
        """The table."""
        of, says = Operation, "What the sandbox's log proves"
        yield of("GET", SANDBOXES, self.list, "list-sandboxes", "Sandboxes, newest first", reply=SandboxPage)
        yield of("GET", ONE, self.get, "get-sandbox", "One sandbox", reply=SandboxView)
        yield of("GET", f"{ONE}/verify", self.verify, "verify-sandbox", says, reply=Verdict)

    async def list(self, asked: Asked[SandboxQuery, None]) -> Response:
        """All sandboxes, or one task's."""
        return answer(await self._neighbours.ask(ListSandboxes(task_id=asked.query.task_id)))

    async def get(self, asked: Asked[None, None]) -> Response:
        """One sandbox as its gateway knows it."""
        return answer(await self._neighbours.ask(GetSandbox(sandbox_id=asked.id("sandbox_id"))))

    async def verify(self, asked: Asked[None, None]) -> Response:
        """Reads the whole log: each seq once and in order, one epoch, nothing after the end.

        A log that is gone although the sandbox had one is a fault.
        """
        return answer(await self._neighbours.verdict(asked.id("sandbox_id")))
