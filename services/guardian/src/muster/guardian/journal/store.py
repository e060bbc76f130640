"""The two logs a sandbox has here: its own, which is read, and the guardian's, which is written by compare-and-set."""

from collections.abc import AsyncIterator

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.journal import Journal
from muster.common.bus.streams import StreamSpec
from muster.common.contract import decode, encode, token
from muster.common.contracts.guardian import GuardianRecord, GuardianTold
from muster.common.contracts.sandbox_log import Frame, log_stream, log_subject, partition
from muster.common.faults import Transient

GUARDIAN = StreamSpec(
    name="GUARDIAN",
    subjects=["guardian.log.*", "guardian.event.>"],
    discard_new=True,
    deny_delete=True,
    compress=True,
)

READS = 4


class _EventId(msgspec.Struct):
    event_id: str


class GuardianLogs:
    """Reading and appending."""

    def __init__(self, bus: Bus) -> None:
        self._journal = Journal(bus)

    async def frames(self, sandbox_id: str, *, after: int = 0) -> AsyncIterator[tuple[Frame, int]]:
        """The sandbox's log after a position, with the position of each frame."""
        stream = log_stream(partition(sandbox_id))
        async for stored in self._journal.replay(stream, log_subject(sandbox_id), after=after):
            yield decode(stored.body, Frame), stored.position

    async def records(self, sandbox_id: str) -> tuple[list[GuardianRecord], int]:
        """The guardian's records of a sandbox, and the position of the last. Raises `Transient` on a stale read.

        All that were there when this was called, and maybe later ones: the log may grow faster than it is read.
        """
        subject = self._subject(sandbox_id)
        records, last = list[GuardianRecord](), 0
        tail = await self._journal.tail(GUARDIAN.name, subject)
        for _ in range(READS):
            async for stored in self._journal.replay(GUARDIAN.name, subject, after=last):
                records.append(decode(stored.body, GuardianRecord))
                last = stored.position
            if tail is None or tail.position <= last:
                return records, last
            # The replay was served by a replica that lags.
        raise Transient(f"the replay of {subject} ends before its tail", delay_s=0.2)

    async def append(self, sandbox_id: str, record: GuardianRecord, *, last: int) -> int:
        """Append after `last`. Raises `Outrun`; `TimedOut` and `Unavailable` leave the outcome unknown."""
        return await self._journal.append(self._subject(sandbox_id), encode(record), last=last)

    async def published_ids(self, task_id: str) -> set[str]:
        """Which decisions of a task were published already."""
        subject = f"guardian.event.*.{token(task_id, 'task_id')}"
        return {decode(stored.body, _EventId).event_id async for stored in self._journal.replay(GUARDIAN.name, subject)}

    async def publish(self, event: GuardianTold) -> None:
        """Publish a decision, once by its id."""
        await self._journal.store(event, event.event_id)

    @staticmethod
    def _subject(sandbox_id: str) -> str:
        return f"guardian.log.{token(sandbox_id, 'sandbox_id')}"
