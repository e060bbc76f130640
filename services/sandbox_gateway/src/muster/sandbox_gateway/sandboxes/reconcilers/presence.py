"""Announces at an interval that this gateway runs: the guardian counts the silence of workers only meanwhile."""

import asyncio

from muster.common.bus.connection import Bus
from muster.common.contracts.gateway import GatewayAlive

ALIVE_S = 2.0


class GatewayPresence:
    """Publishes `GatewayAlive`, only while connected: a message must not be sent after it stopped being true."""

    def __init__(self, bus: Bus, instance: str) -> None:
        self._bus, self._instance = bus, instance

    async def run(self) -> None:
        """Publish at every interval, until cancelled."""
        while True:
            if self._bus.connected.is_set():
                await self._bus.publish(GatewayAlive(instance=self._instance, at=self._bus.now()))
            await asyncio.sleep(ALIVE_S)
