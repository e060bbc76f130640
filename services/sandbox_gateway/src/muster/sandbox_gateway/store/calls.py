"""The meter: every model call is stored in `MODEL_CALLS`, or waits here until it can be."""

import asyncio

import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.journal import Journal
from muster.common.contracts.gateway import ModelCalled
from muster.common.faults import TimedOut, Unavailable

log = structlog.get_logger()

_STORE_S = 2.0
_MOST_WAITING = 10_000


class Calls:
    """Model calls of all sandboxes."""

    def __init__(self, bus: Bus) -> None:
        self._journal = Journal(bus)
        self._waiting: asyncio.Queue[ModelCalled] = asyncio.Queue(_MOST_WAITING)

    async def meter(self, call: ModelCalled) -> None:
        """Store a call. The model has been paid for: without NATS the answer goes out all the same."""
        try:
            await self._journal.store(call, call.request_id, timeout_s=_STORE_S)
        except (Unavailable, TimedOut) as error:
            if self._waiting.full():
                log.error("a model call is lost to the meter", request_id=call.request_id, error=str(error))  # noqa: TRY400 - the sentence is enough
            else:
                self._waiting.put_nowait(call)

    async def run(self) -> None:
        """Store what waits, for ever."""
        while True:
            call = await self._waiting.get()
            while True:
                try:
                    await self._journal.store(call, call.request_id)
                    break
                except (Unavailable, TimedOut) as error:
                    log.warning("the meter waits for NATS", waiting=self._waiting.qsize() + 1, error=str(error))
                    await asyncio.sleep(1.0)
