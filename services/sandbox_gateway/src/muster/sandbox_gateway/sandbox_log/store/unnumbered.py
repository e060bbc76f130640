"""Appends events that have an id but no seq: each id once, numbered by the gateway.

The seqs of workers' events come from the disk of the worker, so the log's last frame shows which events are stored. The
events of the OpenHands agent-server have no seq. So this module reads the ids of all events in the log, once for each
sandbox and replica, and after that only new frames. An id is known to be missing only at the position of the last frame
that was read; the append is made by compare-and-set on that position, so two replicas cannot store an id twice.
"""

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.contracts.sandbox_log import FrameHead, LoggedEvent, log_stream, log_subject, partition
from muster.common.faults import Unavailable
from muster.sandbox_gateway.sandbox_log.domain.event_ids import KnownEventIds
from muster.sandbox_gateway.sandbox_log.domain.frames import FrameDraft, LogOwner
from muster.sandbox_gateway.sandbox_log.domain.openhands_events import next_frame
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog

_REMEMBERED = 1_000


class _StoredId(msgspec.Struct, frozen=True):
    event_id: str


class _FrameIds(msgspec.Struct, frozen=True):
    events: list[_StoredId] = []


_frames = msgspec.json.Decoder(_FrameIds)


class UnnumberedEvents:
    """Appends events without seqs to the sandbox logs."""

    def __init__(self, bus: Bus, log: SandboxLog) -> None:
        self._message_store, self._log = MessageStore(bus), log
        self._known: OrderedDict[str, KnownEventIds] = OrderedDict()

    async def append(self, owner: LogOwner, events: Sequence[LoggedEvent]) -> int:
        """Append the events whose ids the log does not have, in order. Returns the seq of the next event.

        Raises the same errors as `SandboxLog.append`. If the outcome is unknown, the caller must send the same events
        again.
        """

        async def missing(tail: FrameHead | None, position: int) -> FrameDraft | None:
            known = await self._read(owner.sandbox_id, position)
            new = known.missing(events)
            return next_frame(owner, new, tail.next if tail else 1) if new else None

        return await self._log.append_made(owner.sandbox_id, missing)

    async def _read(self, sandbox_id: str, position: int) -> KnownEventIds:
        known = self._known.setdefault(sandbox_id, KnownEventIds())
        self._known.move_to_end(sandbox_id)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        if known.position > position:  # The log was lost, and its stream created again.
            known.forget()
        stream, subject = log_stream(partition(sandbox_id)), log_subject(sandbox_id)
        if known.position < position:
            async for stored in self._message_store.replay(stream, subject, after=known.position):
                known.add(event.event_id for event in _frames.decode(stored.body).events)
                known.position = stored.position
        if known.position < position:  # In a cluster, a replica may lag behind the stream's leader.
            raise Unavailable("the sandbox's log cannot be read completely right now; send the same request again")
        return known
