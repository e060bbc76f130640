"""The audit trail: entries are written when the outcome is known, and queued while JetStream cannot store them."""

import asyncio
from collections import deque

import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.journal import Journal
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
    """Stores entries in order. An entry that cannot be stored now is stored as soon as possible."""

    def __init__(self, bus: Bus) -> None:
        self._bus, self._journal = bus, Journal(bus)
        self._waiting: deque[Audited] = deque()
        self._arrived = asyncio.Event()

    async def record(self, entry: Audited) -> None:
        """Store an entry, or queue it and return: the act that it describes has happened."""
        if self._bus.connected.is_set() and not self._waiting:
            try:
                await self._store(entry)
            except Fault as fault:  # a full stream, for instance; no error here may undo what was done
                log.warning("audit entry queued", event_id=entry.event_id, error=str(fault))
            else:
                return
        self.keep(entry)

    def keep(self, entry: Audited) -> None:
        """Queue an entry without waiting for it to be stored."""
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
        """At the end: write entries that could not be stored to the service's log."""
        while self._waiting:
            _only_in_the_log(self._waiting.popleft())

    async def finish(self) -> None:
        """At the end: store queued entries while that is possible, and give up the rest."""
        try:
            async with asyncio.timeout(LAST_STORES_S):
                await self._store_all()
        except (Fault, TimeoutError) as error:
            log.warning("audit entries lost at stop", error=str(error))
        self.give_up()

    async def _store_all(self) -> None:
        while self._waiting:
            entry = self._waiting[0]
            await self._store(entry)
            if self._waiting and self._waiting[0] is entry:
                self._waiting.popleft()

    async def _make(self) -> None:
        """Create the stream if it does not exist; only the API may change it."""
        try:
            await jetstream(self._bus, f"STREAM.CREATE.{AUDIT.name}", AUDIT.config())
        except Fault as fault:
            if not (isinstance(fault, JetStreamRefusal) and fault.error.err_code == NAME_IN_USE):
                log.warning("audit stream not created", error=str(fault))

    async def _store(self, entry: Audited) -> None:
        await self._journal.store(entry, entry.event_id, timeout_s=STORE_DEADLINE_S)


def _only_in_the_log(entry: Audited) -> None:
    log.error("audit entry not stored", entry=encode(entry).decode())
