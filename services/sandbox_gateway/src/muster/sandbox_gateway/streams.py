"""Creates the streams and buckets that this service owns, at the start and again after every outage.

A stream in memory disappears with its server, and a NATS server may come back with an empty store. Creating a stream
that exists changes nothing, so every replica does it.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.streams import JetStreamRefusal, StreamSpec, ensure_stream
from muster.common.contracts.sandbox_log import PARTITIONS, log_stream
from muster.common.faults import TimedOut, Unavailable

log = structlog.get_logger()

INBOX, BEATS, MODEL_CALLS, MODEL_ASKED = "INBOX", "BEATS", "MODEL_CALLS", "MODEL_ASKED"
_DAY_S = 86_400.0
_RETRY_S = 0.25


def specs(log_max_bytes: int) -> list[StreamSpec]:
    """Return the specifications of all streams. `log_max_bytes` bounds each log stream; -1 sets no limit."""
    logs = [
        StreamSpec(
            name=log_stream(part),
            subjects=[f"sandbox.{part}.*.log"],
            max_bytes=log_max_bytes,
            discard_new=True,
            deny_delete=True,
            compress=True,
        )
        for part in (f"{number:02d}" for number in range(PARTITIONS))
    ]
    return [
        *logs,
        StreamSpec(name=INBOX, subjects=["sandbox.*.*.inbox"], max_age_s=7 * _DAY_S),
        StreamSpec(name=BEATS, subjects=["sandbox.*.*.beat"], storage="memory", per_subject=1, max_age_s=_DAY_S),
        StreamSpec(name=MODEL_CALLS, subjects=["sandbox.*.*.model"], max_age_s=30 * _DAY_S, compress=True),
        StreamSpec(name=MODEL_ASKED, subjects=["sandbox.*.*.asked.*"], per_subject=1, max_age_s=2 * _DAY_S),
    ]


class EnsuredBucket(Protocol):
    """A store that keeps its entries in a JetStream bucket."""

    async def ensure(self) -> None:
        """Create the bucket if it does not exist."""
        ...


class GatewayStreams:
    """Creates the streams and buckets of this service, and creates them again if JetStream has lost them."""

    def __init__(self, bus: Bus, buckets: Sequence[EnsuredBucket], *, log_max_bytes: int) -> None:
        self._bus, self._buckets = bus, buckets
        self._specs = specs(log_max_bytes)
        self._back = asyncio.Event()
        self.ready = False
        """Whether all streams and buckets have been created once."""

    async def ensure(self) -> None:
        """Create all streams and buckets. Tries again until JetStream has them all."""
        while True:
            try:
                for spec in self._specs:
                    await ensure_stream(self._bus, spec)
                for bucket in self._buckets:
                    await bucket.ensure()
            except (Unavailable, TimedOut, JetStreamRefusal) as error:
                log.warning("gateway streams not ready", error=str(error))
                await asyncio.sleep(_RETRY_S)  # JetStream gives no answer while it recovers, and announces no end of it
            else:
                self.ready = True
                return

    async def run(self) -> None:
        """Create the streams again after each reconnect, until cancelled."""
        self._bus.on_reconnect(self._back.set)
        while True:
            await self._back.wait()
            self._back.clear()
            await self.ensure()
