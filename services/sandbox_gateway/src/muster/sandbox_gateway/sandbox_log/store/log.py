"""Appends frames to sandbox logs (`sandbox.<pp>.<id>.log`) by compare-and-set on the position of the last frame.

The gateway is the only service that writes these subjects. Any replica may append to any log:

```
draft ─▶ decide on the tail ─┬─ log has it ─────▶ done
              ▲              ├─ frame ─▶ append ─┬─ acknowledged ─▶ done, remember the frame as the tail
              │              │                   ├─ conflict: another writer appended ─────────┐
              │              │                   └─ no answer: the outcome is unknown ─────────┤
              │              └─ refusal ─┬─ the tail was fresh ─▶ raise it                     │
              │                          └─ the tail was remembered ───────────────────────────┤
              └────────────────────── read the tail from the stream leader ◀───────────────────┘
```
Why this is correct:

- JetStream stores a frame only if the subject's last position is the expected one. Of two concurrent writers one
  succeeds; the other reads the new tail and decides again. So seqs are stored once and in order, without a lock
  between replicas.
- An append without an answer may have been stored. The tail then has its seqs, and the next decision is "log has it".
- A remembered tail may be old. Logs only grow, so "log has it" is still true; a refusal is not raised before the tail
  was read again.

This module keeps no state that a crash can lose. A worker that got no answer sends the same request again, to any
replica, and what was stored already is cut off.
"""

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
from muster.sandbox_gateway.sandbox_log.domain.frames import ORDINARY, EmptyLog, FrameDraft, LogOwner, control, decide
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom

log = structlog.get_logger()

DEADLINE_S = 1.9
"""Seconds for an append: every endpoint answers within 2 s, also when NATS does not answer (I10)."""
_REMEMBERED = 20_000
_PAUSE_S = 0.05

_heads = msgspec.json.Decoder(FrameHead)


class _Part(msgspec.Struct, frozen=True):
    kind: FrameKind
    body: msgspec.Raw


_parts = msgspec.json.Decoder(_Part)


class _Slot:
    """The remembered tail of one log, and the messages that it records as seen. `position` 0: the tail is not known."""

    def __init__(self, sandbox_id: str) -> None:
        self.part = partition(sandbox_id)
        self.subject = log_subject(sandbox_id)
        self.lock = asyncio.Lock()  # two appends of this process would only conflict with each other
        self.position = 0
        self.head: FrameHead | None = None
        self.scanned = 0
        self.seen = set[str]()

    def forget(self) -> None:
        self.position, self.head = 0, None


class SandboxLog:
    """Reads and appends all sandbox logs. Several instances, in one process or several, may append at the same time."""

    def __init__(self, bus: Bus, headroom: Headroom) -> None:
        self._journal, self._now, self._headroom = Journal(bus), bus.now, headroom
        self._slots: OrderedDict[str, _Slot] = OrderedDict()

    async def append(self, drafts: Sequence[FrameDraft], *, deadline_s: float = DEADLINE_S) -> int:
        """Append the drafts of one sandbox in order, without the events that the log has.

        Returns the next expected seq once JetStream has acknowledged. Raises `SeqBehind`, `Gone` or `TooMany`;
        `Unavailable` if the outcome is unknown after `deadline_s` seconds: then the same drafts must be sent again.
        """
        slot = self._slot(drafts[0].owner.sandbox_id)
        try:
            async with asyncio.timeout(deadline_s), slot.lock:  # the deadline covers the wait for the lock too
                for draft in drafts:
                    await self._settle(slot, draft)
                return slot.head.next if slot.head else 1
        except TimeoutError:
            raise Unavailable("the log did not acknowledge in time; send the same again") from None

    async def tail(self, sandbox_id: str, *, fresh: bool = True) -> FrameHead | None:
        """Return the last frame without its events; None for an empty log. `fresh=False` accepts a remembered one."""
        slot = self._slot(sandbox_id)
        if not fresh and slot.position:
            return slot.head
        async with slot.lock:
            await self._read(slot)
            return slot.head

    async def mark_seen(
        self, owner: LogOwner, message_id: str, request_id: str, *, deadline_s: float = DEADLINE_S
    ) -> bool:
        """Append a `seen` frame for a message; return False if the log has one already. Raises as `append` does."""
        slot = self._slot(owner.sandbox_id)
        if message_id in slot.seen:
            return False
        draft = control(owner, FrameKind.SEEN, Seen(message_id=message_id, request_id=request_id))
        try:
            async with asyncio.timeout(deadline_s), slot.lock:
                return await self._settle_seen(slot, draft, message_id)
        except TimeoutError:
            raise Unavailable("the log did not acknowledge in time; send the same again") from None

    async def frames(self, sandbox_id: str) -> list[bytes]:
        """Return all frames of a log, as their stored bytes."""
        slot = self._slot(sandbox_id)
        return [stored.body async for stored in self._journal.replay(log_stream(slot.part), slot.subject)]

    async def _settle(self, slot: _Slot, draft: FrameDraft) -> None:
        """Append `draft`, and return once the log has it. Raises a refusal only from a tail that was just read."""
        fresh = not slot.position
        if fresh:
            await self._read(slot)
        while True:
            verdict = decide(slot.head, draft)
            if verdict is None:
                return  # the log has the draft; true for a remembered tail too, because logs only grow
            if isinstance(verdict, FrameDraft):
                if await self._write(slot, verdict):
                    return
            elif fresh:
                raise self._logged_refusal(verdict, draft)
            await self._read(slot)
            fresh = True

    async def _settle_seen(self, slot: _Slot, draft: FrameDraft, message_id: str) -> bool:
        """Append a `seen` draft unless the log has one for this message.

        Unlike `_settle`, this reads the log up to its tail: the tail alone does not say whether a message was seen.
        """
        while True:
            await self._read(slot)
            while slot.scanned < slot.position:
                await self._scan(slot)
            verdict = decide(slot.head, draft)
            if message_id in slot.seen or verdict is None:
                return False
            if isinstance(verdict, Fault):
                raise self._logged_refusal(verdict, draft)
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
            await asyncio.sleep(
                _PAUSE_S
            )  # in a cluster, a replica that lags behind the leader may have served the replay

    async def _write(self, slot: _Slot, draft: FrameDraft) -> bool:
        """Try to append once. Returns False if another writer was faster or the outcome is unknown.

        The slot's tail is unknown after False: the caller reads it before the next decision.
        """
        if draft.kind in ORDINARY:
            await self._headroom.check(log_stream(slot.part))
        # Replicas have different clocks; the times in one log must not run backwards.
        at = max(self._now(), slot.head.at) if slot.head else self._now()
        frame = draft.frame(at)
        body, last = encode(frame), slot.position
        slot.forget()  # if this task is cancelled during the append, the tail is unknown
        try:
            slot.position = await self._journal.append(slot.subject, body, last=last)
        except RevisionConflict:  # another replica has appended first
            return False
        except (TimedOut, Unavailable) as error:
            log.warning("sandbox log append unacknowledged", sandbox_id=frame.sandbox_id, error=str(error))
            await asyncio.sleep(_PAUSE_S)
            return False
        owner = draft.owner
        slot.head = FrameHead(
            sandbox_id=owner.sandbox_id,
            task_id=owner.task_id,
            agent_id=owner.agent_id,
            epoch=owner.epoch,
            kind=draft.kind,
            first=draft.first,
            next=draft.next,
            at=at,
        )
        return True

    async def _read(self, slot: _Slot) -> None:
        """Read the tail from the stream leader, and repeat until the leader answers or the caller's deadline ends."""
        slot.forget()
        while True:
            try:
                # From the leader: a replica may lag, and its tail would lead to a wrong refusal.
                stored = await self._journal.tail(log_stream(slot.part), slot.subject)
            except (TimedOut, Unavailable):
                await asyncio.sleep(_PAUSE_S)
                continue
            if stored is not None:
                slot.head, slot.position = _heads.decode(stored.body), stored.position
            return

    def _logged_refusal(self, refusal: Fault, draft: FrameDraft) -> Fault:
        if isinstance(refusal, EmptyLog):
            log.error("append to an empty sandbox log refused", sandbox_id=draft.owner.sandbox_id, kind=draft.kind)
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
            if slot.lock.locked():  # in use; a later call evicts it
                return
            del self._slots[oldest]
