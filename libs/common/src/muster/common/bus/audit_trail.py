"""Stores audit entries in JetStream after the outcome of an action is known. Queues them while it cannot store them."""

import asyncio
from collections import deque

import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import NAME_IN_USE, JetStreamRefusal, StreamSpec, jetstream
from muster.common.contract import encode
from muster.common.contracts.audit import Audited
from muster.common.faults import Fault, TimedOut, Unavailable

log = structlog.get_logger()

AUDIT = StreamSpec(name="AUDIT", subjects=["audit.>"], deny_delete=True, deny_purge=True)
STORE_DEADLINE_S = 1.0
MOST_WAITING = 10_000
RETRY_S = 1.0
LAST_STORES_S = 3.0


class AuditTrail:
    """Stores audit entries in order. An entry that JetStream cannot store now is queued and stored later."""

    def __init__(self, bus: Bus) -> None:
        self._bus, self._message_store = bus, MessageStore(bus)
        self._waiting: deque[Audited] = deque()
        self._arrived = asyncio.Event()

    async def record(self, entry: Audited) -> None:
        """Store an entry, or queue the entry and return.

        Never raises an error, because the audited action has already happened.
        """
        if self._bus.connected.is_set() and not self._waiting:
            try:
                await self._store(entry)
            # If the stream is full, for example, the entry is queued. The audited action has already happened.
            except Fault as fault:
                log.warning("audit entry queued", event_id=entry.event_id, error=str(fault))
            else:
                return
        self.keep(entry)

    def keep(self, entry: Audited) -> None:
        """Queue an entry without waiting until JetStream has stored the entry."""
        if len(self._waiting) >= MOST_WAITING:
            _only_in_the_log(self._waiting.popleft())
        self._waiting.append(entry)
        self._arrived.set()

    async def run(self) -> None:
        """Store queued entries in order, until cancelled. Must run under `supervise`."""
        while True:
            await self._arrived.wait()
            await self._bus.connected.wait()
            try:
                await self._store_all()
                self._arrived.clear()
            except Fault as fault:
                if isinstance(fault, Unavailable | TimedOut):
                    await self._make()
                await asyncio.sleep(RETRY_S)

    def give_up(self) -> None:
        """Write the queued entries to the service's log, because the service stops and could not store them."""
        while self._waiting:
            _only_in_the_log(self._waiting.popleft())

    async def finish(self) -> None:
        """Store the queued entries before the service stops.

        Write those that could not be stored to the service's log.
        """
        try:
            async with asyncio.timeout(LAST_STORES_S):
                await self._store_all()
        except (Fault, TimeoutError) as error:
            log.warning("audit entries not stored before stop", error=str(error))
        self.give_up()

    async def _store_all(self) -> None:
        while self._waiting:
            entry = self._waiting[0]
            await self._store(entry)
            if self._waiting and self._waiting[0] is entry:
                self._waiting.popleft()

    async def _make(self) -> None:
        """Create the stream `AUDIT` if it does not exist. Only the management API may change an existing stream."""
        try:
            await jetstream(self._bus, f"STREAM.CREATE.{AUDIT.name}", AUDIT.config())
        except Fault as fault:
            if not (isinstance(fault, JetStreamRefusal) and fault.error.err_code == NAME_IN_USE):
                log.warning("audit stream not created", error=str(fault))

    async def _store(self, entry: Audited) -> None:
        await self._message_store.store(entry, entry.event_id, timeout_s=STORE_DEADLINE_S)


def _only_in_the_log(entry: Audited) -> None:
    log.error("audit entry not stored", entry=encode(entry).decode())
