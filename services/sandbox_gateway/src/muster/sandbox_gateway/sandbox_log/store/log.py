"""The sandbox log: the only writer of `sandbox.<pp>.<id>.log`, by compare-and-set on the last frame."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

import msgspec
import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.journal import Journal, RevisionConflict
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import (
    FrameHead,
    FrameKind,
    Seen,
    log_stream,
    log_subject,
    partition,
)
from muster.common.faults import Fault, TimedOut, Unavailable
from muster.sandbox_gateway.sandbox_log.domain.frames import ORDINARY, FrameDraft, LogOwner, LogTooNew, control, decide
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom

log = structlog.get_logger()

DEADLINE_S = 1.9
"""A door has to answer within 2 s, also when NATS does not (I10)."""
_REMEMBERED = 20_000
_PAUSE_S = 0.05

_heads = msgspec.json.Decoder(FrameHead)


class _Part(msgspec.Struct, frozen=True):
    kind: FrameKind
    body: msgspec.Raw


_parts = msgspec.json.Decoder(_Part)


class _Slot:
    """What this process remembers of one log. `position` 0: nothing, ask the leader."""

    def __init__(self, sandbox_id: str) -> None:
        self.part = partition(sandbox_id)
        self.subject = log_subject(sandbox_id)
        self.lock = asyncio.Lock()
        self.position = 0
        self.head: FrameHead | None = None
        self.scanned = 0
        self.seen = set[str]()

    def forget(self) -> None:
        self.position, self.head = 0, None


class SandboxLog:
    """All sandbox logs, through one connection. Any number of these may append at once."""

    def __init__(self, bus: Bus, headroom: Headroom) -> None:
        self._journal, self._now, self._headroom = Journal(bus), bus.now, headroom
        self._slots: OrderedDict[str, _Slot] = OrderedDict()

    async def append(self, drafts: Sequence[FrameDraft], *, deadline_s: float = DEADLINE_S) -> int:
        """Append what of these is not there yet, in order. Returns the next seq once JetStream has acknowledged.

        Raises `Behind`, `Gone`, `TooMany`, or `Unavailable` when the outcome is unknown: then send the same again.
        """
        slot = self._slot(drafts[0].whose.sandbox_id)
        try:
            async with asyncio.timeout(deadline_s), slot.lock:
                for draft in drafts:
                    await self._settle(slot, draft)
                return slot.head.next if slot.head else 1
        except TimeoutError:
            raise Unavailable("the log did not acknowledge in time; send the same again") from None

    async def tail(self, sandbox_id: str, *, fresh: bool = True) -> FrameHead | None:
        """The last frame; with `fresh=False` perhaps an older one."""
        slot = self._slot(sandbox_id)
        if not fresh and slot.position:
            return slot.head
        async with slot.lock:
            await self._read(slot)
            return slot.head

    async def mark_seen(
        self, whose: LogOwner, message_id: str, request_id: str, *, deadline_s: float = DEADLINE_S
    ) -> bool:
        """Append a `seen` frame for a message unless the log has one. Raises as `append` does."""
        slot = self._slot(whose.sandbox_id)
        if message_id in slot.seen:
            return False
        draft = control(whose, FrameKind.SEEN, Seen(message_id=message_id, request_id=request_id))
        try:
            async with asyncio.timeout(deadline_s), slot.lock:
                return await self._settle_seen(slot, draft, message_id)
        except TimeoutError:
            raise Unavailable("the log did not acknowledge in time; send the same again") from None

    async def frames(self, sandbox_id: str) -> list[bytes]:
        """The whole log as it is stored."""
        slot = self._slot(sandbox_id)
        return [stored.body async for stored in self._journal.replay(log_stream(slot.part), slot.subject)]

    async def _settle(self, slot: _Slot, draft: FrameDraft) -> None:
        """Until `draft` is in the log, or refused by what the leader says now."""
        fresh = not slot.position
        if fresh:
            await self._read(slot)
        while True:
            verdict = decide(slot.head, draft)
            if verdict is None:
                return  # logs only grow: what a remembered tail has, the log has
            if isinstance(verdict, FrameDraft):
                if await self._write(slot, verdict):
                    return
            elif fresh:
                raise self._told(verdict, draft)
            await self._read(slot)
            fresh = True

    async def _settle_seen(self, slot: _Slot, draft: FrameDraft, message_id: str) -> bool:
        """As `_settle`; but the tail alone does not say whether a message was seen, so the log is read up to it."""
        while True:
            await self._read(slot)
            while slot.scanned < slot.position:
                await self._scan(slot)
            verdict = decide(slot.head, draft)
            if message_id in slot.seen or verdict is None:
                return False
            if isinstance(verdict, Fault):
                raise self._told(verdict, draft)
            if await self._write(slot, verdict):
                slot.seen.add(message_id)
                slot.scanned = slot.position
                return True

    async def _scan(self, slot: _Slot) -> None:
        async for stored in self._journal.replay(log_stream(slot.part), slot.subject, after=slot.scanned):
            part = _parts.decode(stored.body)
            if part.kind is FrameKind.SEEN:
                slot.seen.add(msgspec.json.decode(part.body, type=Seen).message_id)
            slot.scanned = stored.position
        if slot.scanned < slot.position:
            await asyncio.sleep(_PAUSE_S)  # on a cluster a direct get may lag behind the leader

    async def _write(self, slot: _Slot, draft: FrameDraft) -> bool:
        """One try. False when somebody was faster or the outcome is unknown: then the tail has to be read."""
        if draft.kind in ORDINARY:
            await self._headroom.check(log_stream(slot.part))
        at = max(self._now(), slot.head.at) if slot.head else self._now()
        frame = draft.frame(at)
        body, last = encode(frame), slot.position
        slot.forget()  # cancelled from here on, nobody knows what the log holds
        try:
            slot.position = await self._journal.append(slot.subject, body, last=last)
        except RevisionConflict:
            return False
        except (TimedOut, Unavailable) as error:
            log.warning("append without an answer; will look", sandbox_id=frame.sandbox_id, error=str(error))
            await asyncio.sleep(_PAUSE_S)
            return False
        whose = draft.whose
        slot.head = FrameHead(
            sandbox_id=whose.sandbox_id,
            task_id=whose.task_id,
            agent_id=whose.agent_id,
            epoch=whose.epoch,
            kind=draft.kind,
            first=draft.first,
            next=draft.next,
            at=at,
        )
        return True

    async def _read(self, slot: _Slot) -> None:
        """The tail, from the leader, as soon as it answers."""
        slot.forget()
        while True:
            try:
                stored = await self._journal.tail(log_stream(slot.part), slot.subject)
            except (TimedOut, Unavailable):
                await asyncio.sleep(_PAUSE_S)  # the caller's deadline ends this
                continue
            if stored is not None:
                slot.head, slot.position = _heads.decode(stored.body), stored.position
            return

    def _told(self, refusal: Fault, draft: FrameDraft) -> Fault:
        if isinstance(refusal, LogTooNew):
            log.error("append to an empty log", sandbox_id=draft.whose.sandbox_id, kind=draft.kind)
        return refusal

    def _slot(self, sandbox_id: str) -> _Slot:
        slot = self._slots.get(sandbox_id)
        if slot is None:
            slot = self._slots[sandbox_id] = _Slot(sandbox_id)
            self._evict()
        self._slots.move_to_end(sandbox_id)
        return slot

    def _evict(self) -> None:
        while len(self._slots) > _REMEMBERED:
            oldest, slot = next(iter(self._slots.items()))
            if slot.lock.locked():
                return
            del self._slots[oldest]
