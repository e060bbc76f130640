"""Two guardians on one NATS server whose clocks differ by more than the TTL of a lease."""

from datetime import datetime, timedelta

import pytest

from muster.common.bus.connection import open_bus
from muster.common.clock import utc_now
from muster.guardian.leadership.store import Leadership
from tests.support.servers import Restartable

TTL_S = 60.0


@pytest.mark.parametrize("off_s", [-66.0, 66.0])
async def test_fresh_lease_stays_with_its_owner_and_a_released_one_is_acquired(
    nats_server: Restartable, off_s: float
) -> None:
    def elsewhere() -> datetime:
        return utc_now() + timedelta(seconds=off_s)

    async with open_bus(nats_server.url, "one") as here, open_bus(nats_server.url, "two", now=elsewhere) as there:
        holder, other = Leadership(here, ttl_s=TTL_S), Leadership(there, ttl_s=TTL_S)
        await holder.ensure()
        first = await holder.acquire()
        refused, wait_s = await other.try_acquire()
        await holder.give_back(first)
        second, _ = await other.try_acquire()

    assert refused is None
    assert 0 < wait_s <= TTL_S
    assert (first.epoch, second and second.epoch) == (1, 2)
