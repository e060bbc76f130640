"""Meters every model call: records each call before it is made, and stores the call's usage after it has ended.

```
begin ─▶ record in MODEL_ASKED ─▶ call the model ─▶ settle: record in MODEL_CALLS ─▶ empty the record in MODEL_ASKED
                     │                                          ▲
                     └─ not settled 60 s after the deadline: ───┘
                        any gateway meters the reserved usage
```
`begin` stores the call with its reserved usage: an upper estimate of the call's tokens and cost. If NATS does not store
this record, the call is not made. `settle` stores the measured usage. If NATS does not answer then, the usage waits in
memory and `run` stores it later. The worker gets the model's answer in any case, because the model has been paid.

If the process dies before `settle`, the record stays in `MODEL_ASKED`, and `run_settling` of any gateway meters the
reserved usage once the record's `settle_by` time has passed. If the process dies between the two writes of `settle`,
`run_settling` finds the call in `MODEL_CALLS` and only empties the record. If a slow gateway and `run_settling` meter a
call at the same time, the call is stored twice under one `request_id`. Consumers count only the first record.
"""

import asyncio
from datetime import timedelta

import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore, RevisionConflict
from muster.common.clock import Clock
from muster.common.contract import decode
from muster.common.contracts.attempts import UsedSoFar
from muster.common.contracts.model_calls import ModelAsked, ModelCalled
from muster.common.contracts.sandbox_log import partition
from muster.common.faults import Fault, TimedOut, Unavailable
from muster.sandbox_gateway.sandbox_log.store.log import DEADLINE_S
from muster.sandbox_gateway.streams import MODEL_ASKED, MODEL_CALLS

log = structlog.get_logger()

_STORE_S = 2.0
_UNREADABLE = "the model calls of this sandbox cannot be read right now; send the request again"
_MOST_WAITING = 10_000
_SETTLE_EVERY_S = 15.0
_LATE_S = 60.0
"""Seconds after a call's deadline in which the gateway of the call can meter it. Then any gateway meters it."""


class ModelCallStore:
    """Records and meters the model calls of all sandboxes."""

    def __init__(self, bus: Bus, now: Clock) -> None:
        self._bus, self._message_store, self._now = bus, MessageStore(bus), now
        self._settled_to = 0
        """Position in `MODEL_ASKED` up to which all calls are known to be metered."""
        self._waiting: asyncio.Queue[tuple[int, ModelCalled]] = asyncio.Queue(_MOST_WAITING)

    async def last(self, sandbox_id: str) -> ModelCalled | None:
        """Return the record of the latest metered model call of a sandbox, or None. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                last = await self._message_store.tail(MODEL_CALLS, _subject(sandbox_id, "model"))
        except (TimeoutError, TimedOut):
            raise Unavailable(_UNREADABLE) from None
        return decode(last.body, ModelCalled) if last else None

    async def cost_of(self, sandbox_id: str) -> float | None:
        """Return the US dollars that the model calls of a sandbox have cost; None if it has made none. One read."""
        last = await self.last(sandbox_id)
        return None if last is None else last.used.cost_usd

    async def used(self, sandbox_id: str) -> UsedSoFar:
        """Return the use of a sandbox from all records of its calls. Raises `Unavailable`.

        The latest record need not have the most use, because an overdue call is metered late.
        """
        most = UsedSoFar()
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for stored in self._message_store.replay(MODEL_CALLS, _subject(sandbox_id, "model")):
                    used = decode(stored.body, ModelCalled).used
                    most = used if used.steps > most.steps else most
        except (TimeoutError, TimedOut):
            raise Unavailable(_UNREADABLE) from None
        return most

    async def begin(self, reserved: ModelCalled, *, deadline_s: float) -> int:
        """Record a model call before it is made, with the usage to meter if the call is never settled.

        Returns the record's position in the stream, which `settle` needs. The call may take `deadline_s` seconds.
        Raises `Unavailable` if NATS does not store the record: the caller must then not make the call.
        """
        asked = ModelAsked(
            partition=reserved.partition,
            sandbox_id=reserved.sandbox_id,
            request_id=reserved.request_id,
            settle_by=self._now() + timedelta(seconds=deadline_s + _LATE_S),
            call=reserved,
        )
        try:
            return await self._message_store.store(asked, f"{reserved.request_id}-asked", timeout_s=DEADLINE_S)
        except TimedOut:
            raise Unavailable("the model call cannot be recorded right now; send the request again") from None

    async def settle(self, position: int, call: ModelCalled) -> None:
        """Meter a model call that has ended. If NATS does not answer now, `run` or `run_settling` meters it later."""
        try:
            await self._meter(position, call, timeout_s=_STORE_S)
        except Fault as error:
            if self._waiting.full():  # `run_settling` meters this call later with the call's reserved usage.
                log.error("measured usage of a model call not stored", request_id=call.request_id, error=str(error))  # noqa: TRY400 - the error's text is enough
            else:
                self._waiting.put_nowait((position, call))

    async def run(self) -> None:
        """Meter the model calls that NATS did not store at the first try, until cancelled."""
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
        """Every 15 s, meter the model calls that no gateway has settled in time, until cancelled."""
        # After a reconnect the stream may be a new one, whose positions begin at 1 again.
        self._bus.on_reconnect(self._restart_scan)
        while True:
            try:
                await self.settle_overdue()
            except Fault as fault:
                log.warning("check for unmetered model calls failed", error=str(fault))
            await asyncio.sleep(_SETTLE_EVERY_S)

    async def settle_overdue(self) -> None:
        """Meter the reserved usage of each unmetered model call whose `settle_by` time has passed."""
        settled_to, all_settled = self._settled_to, True
        async for stored in self._message_store.replay(MODEL_ASKED, "sandbox.*.*.asked.*", after=self._settled_to):
            if stored.body:
                asked = decode(stored.body, ModelAsked)
                if asked.settle_by <= self._now():
                    await self._settle_overdue(stored.position, asked.call)
                else:
                    all_settled = False
            if all_settled:  # The next scan must begin at the first record of an unsettled call.
                settled_to = stored.position
        self._settled_to = settled_to

    def _restart_scan(self) -> None:
        self._settled_to = 0

    async def _settle_overdue(self, position: int, call: ModelCalled) -> None:
        if await self._is_metered(call):
            await self._empty(position, call)
        else:
            log.warning("unsettled model call metered with its reserved usage", request_id=call.request_id)
            await self._meter(position, call, timeout_s=DEADLINE_S)

    async def _is_metered(self, asked: ModelCalled) -> bool:
        async for stored in self._message_store.replay(MODEL_CALLS, asked.subject):
            if decode(stored.body, ModelCalled).request_id == asked.request_id:
                return True
        return False

    async def _meter(self, position: int, call: ModelCalled, *, timeout_s: float) -> None:
        await self._message_store.store(call, call.request_id, timeout_s=timeout_s)
        await self._empty(position, call)

    async def _empty(self, position: int, call: ModelCalled) -> None:
        try:
            await self._message_store.append(
                f"{_subject(call.sandbox_id, 'asked')}.{call.request_id}", b"", last=position
            )
        except RevisionConflict:
            pass  # Another gateway has already marked the call as settled.
        except Fault as error:
            # The call is metered already, so the error is not raised. `settle_overdue` later empties the call's record.
            log.info("metered model call could not be marked as settled", request_id=call.request_id, error=str(error))


def _subject(sandbox_id: str, last: str) -> str:
    return f"sandbox.{partition(sandbox_id)}.{sandbox_id}.{last}"
