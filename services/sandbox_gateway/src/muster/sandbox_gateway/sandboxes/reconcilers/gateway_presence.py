"""Publishes every 2 s that this gateway is running.

The guardian counts workers as silent only while it receives these messages, because without a gateway the heartbeats of
workers cannot arrive.
"""

import asyncio

from muster.common.bus.connection import Bus
from muster.common.contracts.gateway import GatewayAlive

ALIVE_S = 2.0


class GatewayPresence:
    """Publishes the message `GatewayAlive` while this gateway is connected to NATS.

    Without a connection nothing is published, because the NATS client would buffer the message and send it much later.
    """

    def __init__(self, bus: Bus, instance: str) -> None:
        self._bus, self._instance = bus, instance

    async def run(self) -> None:
        """Publish `GatewayAlive` every `ALIVE_S` seconds, until cancelled."""
        while True:
            if self._bus.connected.is_set():
                await self._bus.publish(GatewayAlive(instance=self._instance, at=self._bus.now()))
            await asyncio.sleep(ALIVE_S)
