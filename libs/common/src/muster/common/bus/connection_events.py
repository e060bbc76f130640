"""Passes the events of a NATS client's connection on to the bus and the log."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

import structlog

from muster.common.bus.login import NoTls, refuses

log = structlog.get_logger()


class Connected(Protocol):
    """Receives whether there is a connection."""

    connected: asyncio.Event

    def reconnected(self) -> None:
        """There is a connection again."""
        ...


class ConnectionEvents:
    """Passes the events of a client's connection on to the bus and the log."""

    def __init__(self, bus: Connected) -> None:
        self._bus = bus
        self.closing = self.refused = False
        self.insecure = ""
        """Why TLS failed at the last try."""
        self.on_insecure: Callable[[], None] | None = None

    async def disconnected(self) -> None:
        """Handle the loss of the connection."""
        self._bus.connected.clear()
        if not self.closing:
            log.warning("nats disconnected")

    async def reconnected(self) -> None:
        """Handle the return of the connection."""
        self.refused, self.insecure = False, ""
        log.info("nats reconnected")
        self._bus.reconnected()

    async def closed(self) -> None:
        """Handle the end of the client."""
        self._bus.connected.clear()
        if not self.closing:
            log.error("nats closed the connection for good")

    async def failed(self, error: Exception) -> None:
        """Handle an error that ends nothing."""
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
        elif self._bus.connected.is_set():  # while the server is away every try fails; `disconnected` was logged once
            log.warning("nats error", error=f"{type(error).__name__}: {error}")
