"""Two gateways append to one sandbox log at the same time and are killed at random.

Each `seq` is still stored once and in order (invariant I2).
"""

import asyncio
import random
import signal
from pathlib import Path

import httpcore
import msgspec
import pytest

from muster.common.bus.connection import open_bus
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import LoggedEvent
from muster.common.contracts.worker_api import PostEvents
from muster.sandbox_gateway.sandbox_log.domain.verify import verify
from tests.support.gateway import Stack
from tests.support.servers import Restartable

pytestmark = [pytest.mark.timeout(180), pytest.mark.stress]

EVENTS, KILLS = 400, 3
BODY = msgspec.Raw(encode({"kind": "MessageEvent"}))


def posted(first: int, count: int) -> PostEvents:
    at = utc_now()
    events = [
        LoggedEvent(seq=seq, event_id=f"e{seq}", kind="MessageEvent", at=at, source="agent", body=BODY)
        for seq in range(first, first + count)
    ]
    return PostEvents(epoch=1, events=events)


async def test_each_seq_is_stored_once_although_two_gateways_receive_it_and_are_killed(
    nats_server: Restartable, tmp_path: Path
) -> None:
    async with open_bus(nats_server.url, "test") as bus:
        gateways = [
            Stack(home, nats_server.url, bus) for home in (tmp_path / "a", tmp_path / "b") if home.mkdir() is None
        ]
        for gateway in gateways:
            await gateway.start()
        whose, token = await gateways[0].born()
        survived = asyncio.Event()
        path = f"/v1/sandboxes/{whose.sandbox_id}/events"

        async def worker(gateway: Stack, seed: int) -> None:
            """Post events from about the end of the log, to a gateway that may be killed."""
            chance, expected = random.Random(seed), 1
            while expected <= EVENTS or not survived.is_set():
                first = max(1, expected - chance.randint(0, 5))
                try:
                    status, answer, _ = await gateway.call(
                        "POST", path, posted(first, chance.randint(1, 10)), token=token
                    )
                except (httpcore.NetworkError, httpcore.RemoteProtocolError, httpcore.TimeoutException, OSError):
                    await asyncio.sleep(0.05)
                    continue
                assert status in (202, 409, 503), answer
                expected = answer.get("next_seq", expected)

        async def killer() -> None:
            chance = random.Random(3)
            for _ in range(KILLS):
                victim = chance.choice(gateways)
                await asyncio.sleep(chance.uniform(0.1, 0.5))  # The kill must happen at a random moment.
                await victim.end(signal.SIGKILL)
                await victim.start()
            survived.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(killer())
            for number, gateway in enumerate(gateways):
                for lane in range(2):
                    tasks.create_task(worker(gateway, 10 * number + lane))
        stored = [encode(frame) for frame in await gateways[0].frames(whose.sandbox_id)]
        for gateway in gateways:
            assert await gateway.end() == 0
            await gateway.pool.aclose()
    verdict = verify(whose.sandbox_id, stored)

    assert verdict.faults == []
    assert verdict.events >= EVENTS
    assert verdict.gaps == []
