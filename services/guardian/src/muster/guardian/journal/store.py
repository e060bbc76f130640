"""Reads the sandbox log, and reads and writes the guardian's log of the same sandbox (`guardian.log.<sandbox>`).

The guardian's log is appended by compare-and-set on the position of its last record, so that two guardians that both
believe to lead cannot both write: the second append fails, and that guardian reads the log again.
"""

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

MOST_READS = 4
"""Most reads of a log before a read that ends too early is reported as `Transient`."""


class _EventId(msgspec.Struct):
    event_id: str


class GuardianLogs:
    """Reads both logs of a sandbox, appends records, and publishes decisions."""

    def __init__(self, bus: Bus) -> None:
        self._journal = Journal(bus)

    async def frames(self, sandbox_id: str, *, after: int = 0) -> AsyncIterator[tuple[Frame, int]]:
        """Iterate over the frames of a sandbox log after a position, with the position of each frame."""
        stream = log_stream(partition(sandbox_id))
        async for stored in self._journal.replay(stream, log_subject(sandbox_id), after=after):
            yield decode(stored.body, Frame), stored.position

    async def records(self, sandbox_id: str) -> tuple[list[GuardianRecord], int]:
        """Return the guardian's records of a sandbox, and the position of the last one; 0 if there is none.

        Returns at least all records that were stored when this was called. Raises `Transient` if a replica that lags
        behind the stream leader served the read.
        """
        subject = self._subject(sandbox_id)
        records, last = list[GuardianRecord](), 0
        tail = await self._journal.tail(GUARDIAN.name, subject)
        for _ in range(MOST_READS):
            async for stored in self._journal.replay(GUARDIAN.name, subject, after=last):
                records.append(decode(stored.body, GuardianRecord))
                last = stored.position
            if tail is None or tail.position <= last:
                return records, last
            # A replica that lags behind the stream leader served the replay: read on after the last record.
        raise Transient(f"the read of {subject} ended before its last record", delay_s=0.2)

    async def append(self, sandbox_id: str, record: GuardianRecord, *, last: int) -> int:
        """Append a record if the log's last position is `last`; return its position.

        Raises `RevisionConflict` if it is not. After `TimedOut` or `Unavailable` the outcome is unknown.
        """
        return await self._journal.append(self._subject(sandbox_id), encode(record), last=last)

    async def published_ids(self, task_id: str) -> set[str]:
        """Return the ids of the decisions of a task that are published already."""
        subject = f"guardian.event.*.{token(task_id, 'task_id')}"
        return {decode(stored.body, _EventId).event_id async for stored in self._journal.replay(GUARDIAN.name, subject)}

    async def publish(self, event: GuardianTold) -> None:
        """Publish a decision. JetStream drops a second one with the same id within its deduplication window."""
        await self._journal.store(event, event.event_id)

    @staticmethod
    def _subject(sandbox_id: str) -> str:
        return f"guardian.log.{token(sandbox_id, 'sandbox_id')}"
