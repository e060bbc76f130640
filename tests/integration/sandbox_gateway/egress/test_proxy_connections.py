"""The connections of the proxy of sandboxes: their end, their number, and their records. Nothing is dialled."""

import asyncio

from muster.common.clock import utc_now
from muster.common.contracts.sandbox_log import (
    Fenced,
    FrameKind,
)
from muster.sandbox_gateway.egress.store.open_connections import PER_SANDBOX
from muster.sandbox_gateway.sandbox_log.domain.frames import control
from muster.sandbox_gateway.sandbox_log.store.fences import Fence
from tests.support.patience import PATIENCE_S
from tests.support.proxy_place import ProxyPlace


async def test_fence_cuts_open_connections_and_refuses_new_ones(place: ProxyPlace):
    owner, token = await place.sandbox()
    async with asyncio.timeout(PATIENCE_S):
        client = await place.connect("CONNECT public.example:443 HTTP/1.1", token)
        assert (await client.head())[0] == 200
        await place.fences.add(owner.sandbox_id, Fence(epoch=1, reason="replaced", at=utc_now()))
        assert await client.reader.read() == b""
    assert (await place.status("CONNECT public.example:443 HTTP/1.1", token))[0] == 403


async def test_ended_epoch_is_refused_by_its_log_alone(place: ProxyPlace):
    owner, token = await place.sandbox()
    await place.log.append([control(owner, FrameKind.FENCED, Fenced(reason="replaced"))])
    assert (await place.status("CONNECT public.example:443 HTTP/1.1", token))[0] == 403


async def test_connections_are_ended_and_recorded_before_the_run_ends(place: ProxyPlace):
    owner, token = await place.sandbox()
    async with asyncio.timeout(PATIENCE_S):
        client = await place.connect("CONNECT public.example:443 HTTP/1.1", token)
        await client.head()
        client.writer.write(b"left open")
        await client.reader.readexactly(9)
        (made,) = await place.settled(owner)
        assert (made.sent_bytes, made.open) == (9, 0)
        assert "run of the sandbox" in made.reason
        assert await client.reader.read() == b""


async def test_many_refusals_become_few_frames(place: ProxyPlace):
    owner, token = await place.sandbox()
    for _ in range(30):
        await place.status("CONNECT evil.example:443 HTTP/1.1", token)
    assert len(await place.recorded(owner)) == 1
    first, others = await place.settled(owner)
    assert (first.connections, others.connections) == (1, 29)


async def test_sandbox_has_a_limit_of_open_connections_and_others_are_not_affected(place: ProxyPlace):
    _, token = await place.sandbox()
    _, other = await place.sandbox()
    line = "CONNECT public.example:443 HTTP/1.1"
    async with asyncio.timeout(PATIENCE_S):
        clients = [await place.connect(line, token) for _ in range(PER_SANDBOX)]
        assert {(await client.head())[0] for client in clients} == {200}
        assert (await place.status(line, token))[0] == 429
        assert (await place.status(line, other))[0] == 200
        for client in clients:
            client.writer.close()
