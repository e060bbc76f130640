"""Meters model calls so that no call is lost: each is recorded before it is made, and metered after it.

```
begin ─▶ record in MODEL_ASKED ─▶ call the model ─▶ settle: record in MODEL_CALLS ─▶ empty the record in MODEL_ASKED
                     │                                          ▲
                     └─ not settled 60 s after the deadline: ───┘
                        any gateway meters the reserved usage
```
`begin` stores the call with its reserved usage: an upper estimate of what the call may cost. If that fails, the call
is not made. `settle` stores the measured usage. If NATS does not answer then, the call waits in memory and `run` stores
it later; the worker gets its answer in any case, because the model has been paid.

If the process dies before `settle`, the record stays in `MODEL_ASKED`, and `run_settling` of any gateway meters the
reserved usage once `settle_by` has passed. If it dies between the two writes of `settle`, `run_settling` finds the call
in `MODEL_CALLS` and only empties the record. A call can still be stored twice under one `request_id`, when a slow
gateway and `run_settling` meter it at the same time: consumers count the first.
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
"""Seconds after a call's deadline that its own gateway has to meter it, before any gateway meters it as reserved."""


class ModelCallStore:
    """Records and meters the model calls of all sandboxes."""

    def __init__(self, bus: Bus, now: Clock) -> None:
        self._bus, self._journal, self._now = bus, Journal(bus), now
        self._settled_to = 0
        """Position in `MODEL_ASKED` up to which all calls are known to be metered."""
        self._waiting: asyncio.Queue[tuple[int, ModelCalled]] = asyncio.Queue(_MOST_WAITING)

    async def timeouts(self, sandbox_id: str) -> int:
        """Return how many of a sandbox's latest calls in a row timed out. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                last = await self._journal.tail(MODEL_CALLS, _subject(sandbox_id, "model"))
        except (TimeoutError, TimedOut):
            raise Unavailable(
                "the model calls of this sandbox cannot be read right now; send the request again"
            ) from None
        return decode(last.body, ModelCalled).timeouts if last else 0

    async def begin(self, reserved: ModelCalled, *, deadline_s: float) -> int:
        """Record a call that is about to be made, with the usage to meter if the call is never settled.

        Returns the record's position, for `settle`. `deadline_s`: seconds that the call may take. Raises `Unavailable`
        if the record is not stored: the call must then not be made.
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
            raise Unavailable("the model call cannot be recorded right now; send the request again") from None

    async def settle(self, position: int, call: ModelCalled) -> None:
        """Meter a call that has ended. If NATS does not store it now, `run` or `run_settling` meters it later."""
        try:
            await self._meter(position, call, timeout_s=_STORE_S)
        except Fault as error:
            if self._waiting.full():  # `run_settling` will meter the call as reserved
                log.error("model call left for settlement as reserved", request_id=call.request_id, error=str(error))  # noqa: TRY400 - the sentence is enough
            else:
                self._waiting.put_nowait((position, call))

    async def run(self) -> None:
        """Meter the calls that NATS did not store at first, until cancelled."""
        while True:
            position, call = await self._waiting.get()
            while True:
                try:
                    await self._meter(position, call, timeout_s=DEADLINE_S)
                    break
                except Fault as error:
                    log.warning(
                        "model call not metered, trying again", waiting=self._waiting.qsize() + 1, error=str(error)
                    )
                    await asyncio.sleep(1.0)

    async def run_settling(self) -> None:
        """Meter, every 15 s, the calls that no gateway has settled in time, until cancelled."""
        self._bus.on_reconnect(self._restart_scan)  # the stream may have been made anew, with positions from 1
        while True:
            try:
                await self.settle_overdue()
            except Fault as fault:
                log.warning("overdue model calls not settled", error=str(fault))
            await asyncio.sleep(_SETTLE_EVERY_S)

    async def settle_overdue(self) -> None:
        """Meter each call past its `settle_by` with its reserved usage, unless it is metered already."""
        settled_to, all_settled = self._settled_to, True
        async for stored in self._journal.replay(MODEL_ASKED, "sandbox.*.*.asked.*", after=self._settled_to):
            if stored.body:
                asked = decode(stored.body, ModelAsked)
                if asked.settle_by <= self._now():
                    await self._settle_overdue(stored.position, asked.call)
                else:
                    all_settled = False
            if all_settled:  # the next scan begins at the first record that is not settled
                settled_to = stored.position
        self._settled_to = settled_to

    def _restart_scan(self) -> None:
        self._settled_to = 0

    async def _settle_overdue(self, position: int, call: ModelCalled) -> None:
        if await self._is_metered(call):
            await self._empty(position, call)
        else:
            log.warning("unsettled model call metered as reserved", request_id=call.request_id)
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
            pass  # the record was emptied by another gateway
        except Fault as error:
            # Not raised: the call is metered, and `settle_overdue` empties the record later.
            log.info("record of a metered model call not emptied", request_id=call.request_id, error=str(error))


def _subject(sandbox_id: str, last: str) -> str:
    return f"sandbox.{partition(sandbox_id)}.{sandbox_id}.{last}"
