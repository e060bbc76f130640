"""Whether the API runs, is ready, and which services it reaches. Needs no credentials."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

from muster.common.bus.service import VERSION
from muster.common.contracts.health import Health, PartHealth
from muster.common.faults import Unavailable
from muster.management_api.database.engine import ApiDatabase
from muster.management_api.http.openapi import refuses
from muster.management_api.http.parts import part
from muster.management_api.http.route import routes_of
from muster.management_api.service_client import ServiceClient, pulse

SHARED_S = 1.0


class SharedResult[T]:
    """Shares one reading among all requests for `SHARED_S` seconds.

    Anyone may ask at any rate, and a reading is expensive. Requests during a reading wait for it. A failed reading is
    not shared: the next waiting request reads again.
    """

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._reading = asyncio.Lock()
        self._last: tuple[T, float] | None = None

    async def get(self) -> T:
        """Return the last reading, or a new one if the last is too old."""
        now = asyncio.get_running_loop().time
        async with self._reading:
            if self._last is None or now() - self._last[1] >= SHARED_S:
                self._last = await self._read(), now()
            return self._last[0]


class HealthProbe:
    """The state of the API and of the services that it needs."""

    def __init__(self, neighbours: ServiceClient, database: ApiDatabase) -> None:
        self._database = database
        self.parts = SharedResult(lambda: self._felt(neighbours.pulses()))
        self.servers = SharedResult(lambda: self._felt(neighbours.server()))

    async def _felt(self, pulses: Awaitable[dict[str, PartHealth]]) -> dict[str, PartHealth]:
        """Read the state of the services and of PostgreSQL at the same time."""
        postgres, others = await asyncio.gather(pulse(self._database.answers()), pulses)
        return {"postgres": postgres, **others}


router = routes_of("", "health", refuses(400))
HealthChecks = Annotated[HealthProbe, part(HealthProbe)]


@router.get("/api/health")
async def get_health(checks: HealthChecks) -> Health:
    """Return the state of each part; 200 also when degraded, because the API itself answers."""
    parts = await checks.parts.get()
    well = all(part.status == "ok" for part in parts.values())
    return Health(status="ok" if well else "degraded", version=VERSION, parts=parts)


@router.get("/health")
async def is_alive() -> Health:
    """Return that the process answers."""
    return Health(status="ok", version=VERSION, parts={})


@router.get("/ready", responses=refuses(503))
async def is_ready(checks: HealthChecks) -> Health:
    """Return whether NATS and PostgreSQL answer and the streams exist."""
    parts = await checks.servers.get()
    if away := [name for name, part in parts.items() if part.status != "ok"]:
        raise Unavailable(f"no answer from {' and '.join(away)}")
    return Health(status="ok", version=VERSION, parts=parts)
