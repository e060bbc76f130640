"""Appends frames to sandbox logs by compare-and-set on the stream position of the log's last frame.

The log of a sandbox is the JetStream subject `sandbox.<pp>.<id>.log`. A frame is one append to a log. The gateway is
the only service that writes these subjects, and each replica of the gateway may append to each log:

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

- JetStream stores a frame only if the last position of the subject is the expected one. Of two concurrent writers one
  succeeds. The other one reads the new tail and decides again. So seqs are stored once and in order, without a lock
  between replicas.
- JetStream may have stored an append that got no answer. The tail then contains the seqs of this append, and the next
  decision is "log has it".
- A remembered tail may be old. Logs only grow, so the decision "log has it" is still true. A refusal is raised only
  after the tail was read again.

This module keeps no state that a crash can lose. A worker that got no answer sends the same request again, to any
replica, and events that are stored already are removed from the request.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore, RevisionConflict
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
"""Seconds for an append. Every endpoint must answer within 2 s, even if NATS does not answer (invariant I10)."""
_REMEMBERED = 20_000
_PAUSE_S = 0.05

_heads = msgspec.json.Decoder(FrameHead)


class _Part(msgspec.Struct, frozen=True):
    kind: FrameKind
    body: msgspec.Raw


_parts = msgspec.json.Decoder(_Part)


class _Slot:
    """The remembered last frame of one log, and the ids of the messages that the log records as seen.

    The last frame is unknown if `position` is 0.
    """

    def __init__(self, sandbox_id: str) -> None:
        self.part = partition(sandbox_id)
        self.subject = log_subject(sandbox_id)
        self.lock = asyncio.Lock()  # without a lock, two appends of this process would conflict with each other
        self.position = 0
        self.head: FrameHead | None = None
        self.scanned = 0
        self.seen = set[str]()

    def forget(self) -> None:
        self.position, self.head = 0, None


class SandboxLog:
    """Reads all sandbox logs and appends to them. Several instances and processes may append at the same time."""

    def __init__(self, bus: Bus, headroom: Headroom) -> None:
        self._message_store, self._now, self._headroom = MessageStore(bus), bus.now, headroom
        self._slots: OrderedDict[str, _Slot] = OrderedDict()

    async def append(self, drafts: Sequence[FrameDraft], *, deadline_s: float = DEADLINE_S) -> int:
        """Append frame drafts to the log of one sandbox, in order and without the events that the log has already.

        Returns the seq of the next expected event after JetStream has acknowledged. Raises `SeqBehind`, `Gone` or
        `TooMany`. Raises `Unavailable` if the outcome is unknown after `deadline_s` seconds: the caller must then send
        the same drafts again.
        """
        slot = self._slot(drafts[0].owner.sandbox_id)
        try:
            async with asyncio.timeout(deadline_s), slot.lock:  # the deadline includes the wait for the lock
                for draft in drafts:
                    await self._settle(slot, draft)
                return slot.head.next if slot.head else 1
        except TimeoutError:
            raise Unavailable("the sandbox's log did not acknowledge in time; send the same request again") from None

    async def append_made(
        self,
        sandbox_id: str,
        make: Callable[[FrameHead | None, int], Awaitable[FrameDraft | None]],
        *,
        deadline_s: float = DEADLINE_S,
    ) -> int:
        """Append the drafts that `make` returns for the log's last frame and its position, until it returns None.

        `make` is called again after each append, and if another writer was faster. Returns the seq of the next expected
        event. Raises the same errors as `append`.
        """
        slot = self._slot(sandbox_id)
        try:
            async with asyncio.timeout(deadline_s), slot.lock:
                while True:
                    await self._read(slot)
                    draft = await make(slot.head, slot.position)
                    verdict = draft and decide(slot.head, draft)
                    if draft is not None and isinstance(verdict, Fault):
                        raise self._logged_refusal(verdict, draft)
                    if not isinstance(verdict, FrameDraft):
                        return slot.head.next if slot.head else 1
                    await self._write(slot, verdict)
        except TimeoutError:
            raise Unavailable("the sandbox's log did not acknowledge in time; send the same request again") from None

    async def tail(self, sandbox_id: str, *, fresh: bool = True) -> FrameHead | None:
        """Return the last frame of a sandbox's log, without its events; None for an empty log.

        With `fresh=False` a remembered frame may be returned, which may be old.
        """
        slot = self._slot(sandbox_id)
        if not fresh and slot.position:
            return slot.head
        async with slot.lock:
            await self._read(slot)
            return slot.head

    async def mark_seen(
        self, owner: LogOwner, message_id: str, request_id: str, *, deadline_s: float = DEADLINE_S
    ) -> bool:
        """Append a `seen` frame for a message to a sandbox's log; return False if the log has such a frame already.

        Raises the same errors as `append`.
        """
        slot = self._slot(owner.sandbox_id)
        if message_id in slot.seen:
            return False
        draft = control(owner, FrameKind.SEEN, Seen(message_id=message_id, request_id=request_id))
        try:
            async with asyncio.timeout(deadline_s), slot.lock:
                return await self._settle_seen(slot, draft, message_id)
        except TimeoutError:
            raise Unavailable("the sandbox's log did not acknowledge in time; send the same request again") from None

    async def frames(self, sandbox_id: str) -> list[bytes]:
        """Return the stored bytes of all frames of a sandbox's log, in order."""
        slot = self._slot(sandbox_id)
        return [stored.body async for stored in self._message_store.replay(log_stream(slot.part), slot.subject)]

    async def _settle(self, slot: _Slot, draft: FrameDraft) -> None:
        """Append a draft and return when the log contains it. Reads the log's last frame before it raises a refusal."""
        fresh = not slot.position
        if fresh:
            await self._read(slot)
        while True:
            verdict = decide(slot.head, draft)
            if verdict is None:
                return  # The log has the draft, even if `slot.head` is out of date, because logs only grow.
            if isinstance(verdict, FrameDraft):
                if await self._write(slot, verdict):
                    return
            elif fresh:
                raise self._logged_refusal(verdict, draft)
            await self._read(slot)
            fresh = True

    async def _settle_seen(self, slot: _Slot, draft: FrameDraft, message_id: str) -> bool:
        """Append the draft of a `seen` frame, unless the log has a `seen` frame for this message.

        This method reads all frames of the log, because the last frame does not show which messages were seen.
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
        async for stored in self._message_store.replay(log_stream(slot.part), slot.subject, after=slot.scanned):
            part = _parts.decode(stored.body)
            if part.kind is FrameKind.SEEN:
                slot.seen.add(msgspec.json.decode(part.body, type=Seen).message_id)
            slot.scanned = stored.position
        if slot.scanned < slot.position:
            # In a cluster, the frames may come from a replica that lags behind the stream's leader, so read again.
            await asyncio.sleep(_PAUSE_S)

    async def _write(self, slot: _Slot, draft: FrameDraft) -> bool:
        """Try once to append a frame to a log. Returns False if another writer was faster or the outcome is unknown.

        After False the log's last frame is unknown, and the caller must read it before the next decision.
        """
        if draft.kind in ORDINARY:
            await self._headroom.check(log_stream(slot.part))
        # The clocks of replicas differ, but the times in one log must not decrease.
        at = max(self._now(), slot.head.at) if slot.head else self._now()
        frame = draft.frame(at)
        body, last = encode(frame), slot.position
        slot.forget()  # if this task is cancelled during the append, the log's last frame is unknown
        try:
            slot.position = await self._message_store.append(slot.subject, body, last=last)
        except RevisionConflict:  # another replica has appended a frame first
            return False
        except (TimedOut, Unavailable) as error:
            log.warning("sandbox log append not acknowledged by NATS", sandbox_id=frame.sandbox_id, error=str(error))
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
        """Read a log's last frame from the stream leader. Repeats until the leader answers or the caller cancels."""
        slot.forget()
        while True:
            try:
                # Only the leader is read, because the last frame at a replica may be old and cause a wrong refusal.
                stored = await self._message_store.tail(log_stream(slot.part), slot.subject)
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
            if slot.lock.locked():  # A task still uses this log. A later call removes the slot of the log.
                return
            del self._slots[oldest]
