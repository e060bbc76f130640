"""Creates the JetStream streams and buckets of the gateway, at the start of the process and after each reconnect.

A stream in memory is lost when its server stops, and a NATS server may restart with an empty store. To create a stream
that exists changes nothing, so every replica of the gateway creates all of them.
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
    """Return the specifications of all streams of the gateway.

    `log_max_bytes` is the most bytes of each stream of sandbox logs; -1 sets no limit.
    """
    logs = [
        StreamSpec(
            name=log_stream(part),
            subjects=[f"sandbox.{part}.*.log"],
            max_bytes=log_max_bytes,
            discard_new=True,
            deny_delete=True,
            deny_purge=True,
            compress=True,
        )
        for part in (f"{number:02d}" for number in range(PARTITIONS))
    ]
    return [
        *logs,
        StreamSpec(name=INBOX, subjects=["sandbox.*.*.inbox"], max_age_s=7 * _DAY_S),
        StreamSpec(name=BEATS, subjects=["sandbox.*.*.beat"], storage="memory", per_subject=1, max_age_s=_DAY_S),
        StreamSpec(
            name=MODEL_CALLS,
            subjects=["sandbox.*.*.model"],
            max_age_s=30 * _DAY_S,
            deny_delete=True,
            deny_purge=True,
            compress=True,
        ),
        StreamSpec(name=MODEL_ASKED, subjects=["sandbox.*.*.asked.*"], per_subject=1, max_age_s=2 * _DAY_S),
    ]


class EnsuredBucket(Protocol):
    """A store of the gateway that keeps its entries in a JetStream bucket."""

    async def ensure(self) -> None:
        """Create the store's bucket if the bucket does not exist."""
        ...


class GatewayStreams:
    """Creates the streams and buckets of the gateway, and creates them again if JetStream has lost them."""

    def __init__(self, bus: Bus, buckets: Sequence[EnsuredBucket], *, log_max_bytes: int) -> None:
        self._bus, self._buckets = bus, buckets
        self._specs = specs(log_max_bytes)
        self._back = asyncio.Event()
        self.ready = False
        """Whether all streams and buckets have been created once."""

    async def ensure(self) -> None:
        """Create all streams and buckets of the gateway, and repeat failed calls until JetStream has all of them."""
        while True:
            try:
                for spec in self._specs:
                    await ensure_stream(self._bus, spec)
                for bucket in self._buckets:
                    await bucket.ensure()
            except (Unavailable, TimedOut, JetStreamRefusal) as error:
                log.warning("creation of gateway streams failed, trying again", error=str(error))
                # JetStream does not answer while it recovers, and does not announce when it has recovered.
                await asyncio.sleep(_RETRY_S)
            else:
                self.ready = True
                return

    async def run(self) -> None:
        """Create missing streams and buckets after each reconnect to NATS, until cancelled."""
        self._bus.on_reconnect(self._back.set)
        while True:
            await self._back.wait()
            self._back.clear()
            await self.ensure()
