"""Passes connection events of the NATS client (lost, restored, closed, error) on to the bus and the log."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

import structlog

from muster.common.bus.login import NoTls, refuses

log = structlog.get_logger()


class Connected(Protocol):
    """A bus, which is notified when its connection is lost or restored."""

    connected: asyncio.Event

    def reconnected(self) -> None:
        """Wake the tasks that wait for the connection."""
        ...


class ConnectionEvents:
    """Passes connection events of the NATS client on to the bus and the log."""

    def __init__(self, bus: Connected) -> None:
        self._bus = bus
        self.closing = self.refused = False
        self.insecure = ""
        """The reason why TLS failed at the last try, or an empty string."""
        self.on_insecure: Callable[[], None] | None = None

    async def disconnected(self) -> None:
        """Record that the connection is lost."""
        self._bus.connected.clear()
        if not self.closing:
            log.warning("nats disconnected")

    async def reconnected(self) -> None:
        """Record that the connection is restored, and notify the bus."""
        self.refused, self.insecure = False, ""
        log.info("nats reconnected")
        self._bus.reconnected()

    async def closed(self) -> None:
        """Record that the client has closed the connection permanently."""
        self._bus.connected.clear()
        if not self.closing:
            log.error("nats connection closed permanently")

    async def failed(self, error: Exception) -> None:
        """Log an error that does not end the connection."""
        if isinstance(error, ssl.SSLError | NoTls):
            if str(error) != self.insecure:
                log.error("nats tls connection failed", error=str(error))
            self.insecure = str(error)
            if self.on_insecure:
                self.on_insecure()
        elif refuses(error):
            if not self.refused:
                log.error("nats refused the credentials", error=str(error))
            self.refused = True
        # During an outage every try fails, and the log already contains `nats disconnected`.
        elif self._bus.connected.is_set():
            log.warning("nats reported an error", error=f"{type(error).__name__}: {error}")
