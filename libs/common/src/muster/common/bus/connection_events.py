"""What a client says of its connection, told to the bus and the log."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

import structlog

from muster.common.bus.login import NoTls, refuses

log = structlog.get_logger()


class Connected(Protocol):
    """Who wants to know whether there is a connection."""

    connected: asyncio.Event

    def reconnected(self) -> None:
        """There is one again."""
        ...


class ConnectionEvents:
    """What the client says of its connection, told to the bus and the log."""

    def __init__(self, bus: Connected) -> None:
        self._bus = bus
        self.closing = self.refused = False
        self.insecure = ""
        """Why the last try came to no TLS."""
        self.on_insecure: Callable[[], None] | None = None

    async def disconnected(self) -> None:
        """The server is away."""
        self._bus.connected.clear()
        if not self.closing:
            log.warning("nats disconnected")

    async def reconnected(self) -> None:
        """It is back."""
        self.refused, self.insecure = False, ""
        log.info("nats reconnected")
        self._bus.reconnected()

    async def closed(self) -> None:
        """It is over."""
        self._bus.connected.clear()
        if not self.closing:
            log.error("nats closed the connection for good")

    async def failed(self, error: Exception) -> None:
        """Something went wrong, by which nothing ends."""
        if isinstance(error, ssl.SSLError | NoTls):
            if str(error) != self.insecure:
                log.error("nats tls not usable", error=str(error))
            self.insecure = str(error)
            if self.on_insecure:
                self.on_insecure()
        elif refuses(error):
            if not self.refused:
                log.error("nats refused the credentials", error=str(error))
            self.refused = True
        elif self._bus.connected.is_set():  # while it is away every attempt fails; `disconnected` has said so once
            log.warning("nats error", error=f"{type(error).__name__}: {error}")
