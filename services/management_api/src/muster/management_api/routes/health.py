"""Whether we live, are ready, and whom we reach. No key needed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from starlette.responses import Response

from muster.common.bus.service import VERSION
from muster.common.contracts.health import Health, PartHealth
from muster.common.faults import Unavailable
from muster.management_api.adapters.neighbours import Neighbours, pulse
from muster.management_api.routes.answers import answer
from muster.management_api.routes.operation import Asked, Operation
from muster.management_api.store.database import Database

SHARED_S = 1.0


class Shared[T]:
    """One reading for all who ask until `SHARED_S` after it: anybody may ask, as often as they like, and readings cost.

    Whoever asks during a reading waits for it. One that fails is nobody's: the next in the queue reads anew.
    """

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._reading = asyncio.Lock()
        self._last: tuple[T, float] | None = None

    async def get(self) -> T:
        """The last reading, or a new one where that is too old."""
        now = asyncio.get_running_loop().time
        async with self._reading:
            if self._last is None or now() - self._last[1] >= SHARED_S:
                self._last = await self._read(), now()
            return self._last[0]


class Pulse:
    """The API's own state and that of its neighbours."""

    def __init__(self, neighbours: Neighbours, database: Database) -> None:
        self._database = database
        self._all = Shared(lambda: self._felt(neighbours.pulses()))
        self._servers = Shared(lambda: self._felt(neighbours.server()))

    def operations(self) -> Iterable[Operation]:
        """The table."""
        of, says = Operation, "Every part, as it answers now"
        yield of("GET", "/api/health", self.health, "get-health", says, reply=Health, key=False)
        yield of("GET", "/health", self.alive, "is-alive", "Whether the process answers", reply=Health, key=False)
        ready = "Whether requests can be answered"
        yield of("GET", "/ready", self.ready, "is-ready", ready, reply=Health, key=False, refusals=(503,))

    async def health(self, asked: Asked[None, None]) -> Response:
        """Each part's state; 200 also when degraded, for the API itself answers."""
        del asked
        parts = await self._all.get()
        well = all(part.status == "ok" for part in parts.values())
        return answer(Health(status="ok" if well else "degraded", version=VERSION, parts=parts))

    async def alive(self, asked: Asked[None, None]) -> Response:
        """The process answers."""
        del asked
        return answer(Health(status="ok", version=VERSION, parts={}))

    async def ready(self, asked: Asked[None, None]) -> Response:
        """NATS and PostgreSQL answer, and the streams exist."""
        del asked
        parts = await self._servers.get()
        if away := [name for name, part in parts.items() if part.status != "ok"]:
            raise Unavailable(f"no answer from {' and '.join(away)}")
        return answer(Health(status="ok", version=VERSION, parts=parts))

    async def _felt(self, pulses: Awaitable[dict[str, PartHealth]]) -> dict[str, PartHealth]:
        """Those and PostgreSQL's, at the same time."""
        postgres, others = await asyncio.gather(pulse(self._database.answers()), pulses)
        return {"postgres": postgres, **others}
