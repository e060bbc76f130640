"""The proxy that the tests of this folder share."""

import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from muster.common.bus.connection import open_bus
from muster.common.bus.streams import ensure_stream
from muster.sandbox_gateway.streams import specs
from tests.support.proxy_place import ProxyPlace


@pytest.fixture
async def place(tmp_path: Path, nats_url: str) -> AsyncGenerator[ProxyPlace]:
    async with AsyncExitStack() as opened:
        bus = await opened.enter_async_context(open_bus(nats_url, "test"))
        for spec in specs(-1):
            await ensure_stream(bus, spec)
        place = ProxyPlace(bus, tmp_path / "egress.sock")
        await place.fences.ensure()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(place.path))
        listening.listen()
        await opened.enter_async_context(place.proxy().serving(listening))
        yield place
        for client in place.clients:
            client.writer.close()
