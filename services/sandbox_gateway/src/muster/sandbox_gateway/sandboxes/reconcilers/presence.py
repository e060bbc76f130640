"""Publishes every 2 s that this gateway runs; only while the guardian receives this it counts workers as silent."""

import asyncio

from muster.common.bus.connection import Bus
from muster.common.contracts.gateway import GatewayAlive

ALIVE_S = 2.0


class GatewayPresence:
    """Publishes `GatewayAlive` while NATS is connected.

    Without a connection nothing is published: the client would buffer the message and send it when it is out of date.
    """

    def __init__(self, bus: Bus, instance: str) -> None:
        self._bus, self._instance = bus, instance

    async def run(self) -> None:
        """Publish every `ALIVE_S` seconds, until cancelled."""
        while True:
            if self._bus.connected.is_set():
                await self._bus.publish(GatewayAlive(instance=self._instance, at=self._bus.now()))
            await asyncio.sleep(ALIVE_S)
