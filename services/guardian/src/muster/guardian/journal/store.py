"""Reads the log of a sandbox, and reads and writes the guardian's log of this sandbox (`guardian.log.<sandbox>`).

The guardian's log is appended by compare-and-set on the position of its last record. So two guardians that both believe
to lead cannot both write: the second append fails, and that guardian reads the log again.
"""

from collections.abc import AsyncIterator

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
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
    deny_purge=True,
    compress=True,
)

MOST_READS = 4
"""The number of reads of a log after which an incomplete read is reported as `Transient`."""


class _EventId(msgspec.Struct):
    event_id: str


class GuardianLogs:
    """Reads the two logs of a sandbox, appends records to the guardian's log, and publishes decisions."""

    def __init__(self, bus: Bus) -> None:
        self._message_store = MessageStore(bus)

    async def frames(self, sandbox_id: str, *, after: int = 0) -> AsyncIterator[tuple[Frame, int]]:
        """Iterate over the frames of a sandbox log after the position `after`, with the position of each frame."""
        stream = log_stream(partition(sandbox_id))
        async for stored in self._message_store.replay(stream, log_subject(sandbox_id), after=after):
            yield decode(stored.body, Frame), stored.position

    async def records(self, sandbox_id: str) -> tuple[list[GuardianRecord], int]:
        """Return the guardian's records of a sandbox, and the stream position of the last record, or 0 without records.

        Returns at least all records that were stored at the time of the call. Raises `Transient` if a NATS server that
        lags behind the leader of the stream served the read.
        """
        subject = self._subject(sandbox_id)
        records, last = list[GuardianRecord](), 0
        tail = await self._message_store.tail(GUARDIAN.name, subject)
        for _ in range(MOST_READS):
            async for stored in self._message_store.replay(GUARDIAN.name, subject, after=last):
                records.append(decode(stored.body, GuardianRecord))
                last = stored.position
            if tail is None or tail.position <= last:
                return records, last
            # A server that lags behind the leader of the stream served this read: continue after the last record.
        raise Transient(f"the read of {subject} ended before its last record; it is tried again", delay_s=0.2)

    async def append(self, sandbox_id: str, record: GuardianRecord, *, last: int) -> int:
        """Append a record to the guardian's log if the log's last position is `last`; return the record's position.

        Raises `RevisionConflict` if the log has another last position. After `TimedOut` or `Unavailable`, the record
        may be stored or not.
        """
        return await self._message_store.append(self._subject(sandbox_id), encode(record), last=last)

    async def published_ids(self, task_id: str) -> set[str]:
        """Return the ids of the guardian's decisions about a task that are published already."""
        subject = f"guardian.event.*.{token(task_id, 'task_id')}"
        return {
            decode(stored.body, _EventId).event_id
            async for stored in self._message_store.replay(GUARDIAN.name, subject)
        }

    async def publish(self, event: GuardianTold) -> None:
        """Publish a decision of the guardian. JetStream drops a repeated publication with the same id for some time."""
        await self._message_store.store(event, event.event_id)

    @staticmethod
    def _subject(sandbox_id: str) -> str:
        return f"guardian.log.{token(sandbox_id, 'sandbox_id')}"
