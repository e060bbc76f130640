"""The meter of model calls, which loses none: a call is recorded before it is made, and metered after it.

`begin` stores the call as asked in `MODEL_ASKED`, with the usage that is reserved for it. `settle` stores what it
really was in `MODEL_CALLS` and then empties its record in `MODEL_ASKED`. What a killed gateway leaves behind there,
`run_settling` of any gateway meters with the reserved usage once its time is up. A call can be stored twice that way,
under one `request_id`: consumers count the first.
"""

import asyncio
from datetime import timedelta

import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.journal import Journal, RevisionConflict
from muster.common.clock import Clock
from muster.common.contract import decode
from muster.common.contracts.gateway import ModelAsked, ModelCalled
from muster.common.contracts.sandbox_log import partition
from muster.common.faults import Fault, TimedOut, Unavailable
from muster.sandbox_gateway.sandbox_log.store.log import DEADLINE_S
from muster.sandbox_gateway.streams import MODEL_ASKED, MODEL_CALLS

log = structlog.get_logger()

_STORE_S = 2.0
_MOST_WAITING = 10_000
_SETTLE_EVERY_S = 15.0
_LATE_S = 60.0
"""How long after its deadline the gateway of a call may take to meter it."""


class ModelCallStore:
    """Model calls of all sandboxes."""

    def __init__(self, bus: Bus, now: Clock) -> None:
        self._bus, self._journal, self._now = bus, Journal(bus), now
        self._settled_to = 0
        """Up to this position of `MODEL_ASKED` every call is metered."""
        self._waiting: asyncio.Queue[tuple[int, ModelCalled]] = asyncio.Queue(_MOST_WAITING)

    async def timeouts(self, sandbox_id: str) -> int:
        """How many calls of a sandbox had no answer in time since the last one that had. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                last = await self._journal.tail(MODEL_CALLS, _subject(sandbox_id, "model"))
        except (TimeoutError, TimedOut):
            raise Unavailable("the model calls of this sandbox cannot be read right now; ask again") from None
        return decode(last.body, ModelCalled).timeouts if last else 0

    async def begin(self, reserved: ModelCalled, *, deadline_s: float) -> int:
        """Record a call that is about to be made; it is metered as `reserved` unless it is settled.

        Returns its position, for `settle`. Raises `Unavailable`: then it must not be made.
        """
        asked = ModelAsked(
            partition=reserved.partition,
            sandbox_id=reserved.sandbox_id,
            request_id=reserved.request_id,
            settle_by=self._now() + timedelta(seconds=deadline_s + _LATE_S),
            call=reserved,
        )
        try:
            return await self._journal.store(asked, f"{reserved.request_id}-asked", timeout_s=DEADLINE_S)
        except TimedOut:
            raise Unavailable("the model call cannot be recorded right now; ask again") from None

    async def settle(self, position: int, call: ModelCalled) -> None:
        """Meter a call. The model has been paid for: also without NATS, or with a full one, the answer goes out."""
        try:
            await self._meter(position, call, timeout_s=_STORE_S)
        except Fault as error:
            if self._waiting.full():  # `run_settling` meters it as reserved
                log.error("model call metered later", request_id=call.request_id, error=str(error))  # noqa: TRY400 - the sentence is enough
            else:
                self._waiting.put_nowait((position, call))

    async def run(self) -> None:
        """Meter the calls that wait for NATS, for ever."""
        while True:
            position, call = await self._waiting.get()
            while True:
                try:
                    await self._meter(position, call, timeout_s=DEADLINE_S)
                    break
                except Fault as error:
                    log.warning("the meter waits for NATS", waiting=self._waiting.qsize() + 1, error=str(error))
                    await asyncio.sleep(1.0)

    async def run_settling(self) -> None:
        """Meter the calls that no gateway has settled in time, for ever."""
        self._bus.on_reconnect(self._look_again)  # the stream may have been made anew
        while True:
            try:
                await self.settle_overdue()
            except Fault as fault:
                log.warning("model calls not settled", error=str(fault))
            await asyncio.sleep(_SETTLE_EVERY_S)

    async def settle_overdue(self) -> None:
        """Meter every call whose time is up with the usage that was reserved for it, unless it is metered already."""
        settled_to, all_settled = self._settled_to, True
        async for stored in self._journal.replay(MODEL_ASKED, "sandbox.*.*.asked.*", after=self._settled_to):
            if stored.body:
                asked = decode(stored.body, ModelAsked)
                if asked.settle_by <= self._now():
                    await self._settle_overdue(stored.position, asked.call)
                else:
                    all_settled = False
            if all_settled:
                settled_to = stored.position
        self._settled_to = settled_to

    def _look_again(self) -> None:
        self._settled_to = 0

    async def _settle_overdue(self, position: int, call: ModelCalled) -> None:
        if await self._is_metered(call):
            await self._empty(position, call)
        else:
            log.warning("model call of a killed gateway metered as reserved", request_id=call.request_id)
            await self._meter(position, call, timeout_s=DEADLINE_S)

    async def _is_metered(self, asked: ModelCalled) -> bool:
        async for stored in self._journal.replay(MODEL_CALLS, asked.subject):
            if decode(stored.body, ModelCalled).request_id == asked.request_id:
                return True
        return False

    async def _meter(self, position: int, call: ModelCalled, *, timeout_s: float) -> None:
        await self._journal.store(call, call.request_id, timeout_s=timeout_s)
        await self._empty(position, call)

    async def _empty(self, position: int, call: ModelCalled) -> None:
        try:
            await self._journal.append(f"{_subject(call.sandbox_id, 'asked')}.{call.request_id}", b"", last=position)
        except RevisionConflict:
            pass  # another gateway was faster
        except Fault as error:  # `settle_overdue` looks again
            log.info("asked model call not emptied", request_id=call.request_id, error=str(error))


def _subject(sandbox_id: str, last: str) -> str:
    return f"sandbox.{partition(sandbox_id)}.{sandbox_id}.{last}"
