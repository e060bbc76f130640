"""Routes that return whether the API runs, whether it is ready, and which services answer. They need no credentials."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

from muster.common.bus.service import VERSION
from muster.common.contracts.health import Health, PartHealth
from muster.common.faults import Unavailable
from muster.management_api.database.engine import ApiDatabase
from muster.management_api.http.application_parts import part
from muster.management_api.http.openapi import refuses
from muster.management_api.http.route import routes_of
from muster.management_api.service_client import ServiceClient, pulse

SHARED_S = 1.0


class SharedResult[T]:
    """Calls a function and returns its result to all requests of the next `SHARED_S` seconds.

    The function is expensive, and clients without credentials may send requests at any rate. Requests that arrive
    during a call wait for the result. If the call fails, the next waiting request calls the function again.
    """

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._reading = asyncio.Lock()
        self._last: tuple[T, float] | None = None

    async def get(self) -> T:
        """Return the result of the last call if it is at most `SHARED_S` seconds old; else call the function again."""
        now = asyncio.get_running_loop().time
        async with self._reading:
            if self._last is None or now() - self._last[1] >= SHARED_S:
                self._last = await self._read(), now()
            return self._last[0]


class HealthProbe:
    """Reads the states of PostgreSQL, NATS and the services that the API needs."""

    def __init__(self, neighbours: ServiceClient, database: ApiDatabase) -> None:
        self._database = database
        self.parts = SharedResult(lambda: self._felt(neighbours.pulses()))
        self.servers = SharedResult(lambda: self._felt(neighbours.server()))

    async def _felt(self, pulses: Awaitable[dict[str, PartHealth]]) -> dict[str, PartHealth]:
        """Read the states of PostgreSQL and of the other services at the same time."""
        postgres, others = await asyncio.gather(pulse(self._database.answers()), pulses)
        return {"postgres": postgres, **others}


router = routes_of("", "health", refuses(400))
HealthChecks = Annotated[HealthProbe, part(HealthProbe)]


@router.get("/api/health")
async def get_health(checks: HealthChecks) -> Health:
    """Return the states of PostgreSQL, NATS and each service.

    The HTTP status is 200 even if one of them does not answer, because the API itself answers.
    """
    parts = await checks.parts.get()
    well = all(part.status == "ok" for part in parts.values())
    return Health(status="ok" if well else "degraded", version=VERSION, parts=parts)


@router.get("/health")
async def is_alive() -> Health:
    """Return 200 to show that the API's process answers."""
    return Health(status="ok", version=VERSION, parts={})


@router.get("/ready", responses=refuses(503))
async def is_ready(checks: HealthChecks) -> Health:
    """Return 200 if NATS and PostgreSQL answer, and 503 if one of them does not."""
    parts = await checks.servers.get()
    if away := [name for name, part in parts.items() if part.status != "ok"]:
        raise Unavailable(f"the API is not ready: no answer from {' and '.join(away)}")
    return Health(status="ok", version=VERSION, parts=parts)
