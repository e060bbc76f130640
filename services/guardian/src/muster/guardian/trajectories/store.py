"""Keeps the trajectories of all live sandboxes in memory, and records what the fold decides.

```
not loaded ──load: refold both logs, append missing decisions──▶ loaded ──log ended──▶ released
    ▲                                                             │
    └────── any failure between fold and record: memory may be ahead of the log ──┘
```
For each frame or input, under the lock of its sandbox:

1. fold it, which returns decisions (an input is first appended to the guardian's log);
2. append each decision to the guardian's log, by compare-and-set after the last record;
3. publish each appended decision as an event;
4. call the listeners, which carry out what is pending.

If the process dies, or a call fails, at any of these points, the trajectory in memory is dropped and loaded again from
the logs. After 1, the refold makes the same decisions and the load appends those that are missing. After 2, the load
compares the records with the published events and publishes the rest; events have fixed ids. After 3, the listeners
are called at the end of the load.

Two guardians that both believe to lead cannot both append: the second append fails with a conflict, the trajectory
is loaded again, and a record of a later epoch raises `Deposed`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import structlog

from muster.common.bus.journal import RevisionConflict
from muster.common.clock import Clock
from muster.common.contract import encode
from muster.common.contracts.guardian import GuardianRecord
from muster.common.contracts.sandbox_log import Frame, FrameKind
from muster.common.faults import NotFound, Transient
from muster.guardian.journal.domain.decisions import Decision
from muster.guardian.journal.domain.inputs import GuardianInput, Policy
from muster.guardian.journal.domain.refolding import Refold, recorded
from muster.guardian.journal.domain.reports import ReportedAttempt, as_event
from muster.guardian.journal.store import GuardianLogs
from muster.guardian.trajectories.domain.trajectory import Trajectory

log = structlog.get_logger()

ENDED_KEPT = 50_000
"""Ended sandboxes whose last position is remembered, so that late deliveries of their frames load nothing."""
INPUT_TRIES = 5

Changed = Callable[[Trajectory], None]


class Deposed(Transient):
    """The log has records of a later epoch: another guardian leads, and this one must not write any more."""


@dataclass
class FollowedTrajectory:
    """A trajectory, and the state of the guardian's log of the same sandbox."""

    trajectory: Trajectory
    n: int = 0
    """Number of the last record."""
    last: int = 0
    """Position of the last record, which the next append expects."""
    run: int = 0
    """The row of deliveries (see `take`) for which frames that were missed before it have been read from the log."""
    unpublished: list[GuardianRecord] = field(default_factory=list[GuardianRecord])
    """Recorded decisions that are not published yet."""

    @property
    def attempt(self) -> ReportedAttempt:
        """The attempt that the trajectory belongs to."""
        return ReportedAttempt(self.trajectory.task_id, self.trajectory.sandbox_id, self.trajectory.epoch)


@dataclass
class _SandboxSlot:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    followed: FollowedTrajectory | None = None


class TrajectoryStore:
    """The trajectories of this leader. Takes frames and inputs, and records and publishes the resulting decisions."""

    def __init__(self, logs: GuardianLogs, *, guardian_epoch: int, policy: Policy, now: Clock) -> None:
        self._logs, self._epoch, self._policy, self._now = logs, guardian_epoch, policy, now
        self._slots: dict[str, _SandboxSlot] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._changed: list[Changed] = []

    def on_change(self, changed: Changed) -> None:
        """Call `changed` with each trajectory that was loaded or has taken a frame or an input."""
        self._changed.append(changed)

    async def take(self, frame: Frame, position: int, *, run: int) -> None:
        """Fold a frame and record its decisions. `run`: position where the row of deliveries to this process began.

        Raises `Transient` if the frame has to be delivered again: a read was out of date, or an append conflicted.
        """
        if position <= self._ended.get(frame.sandbox_id, 0):
            return
        try:
            async with self._locked(frame.sandbox_id) as followed:
                if position > followed.trajectory.position:
                    await self._take(followed, frame, position, run=run)
        except NotFound as missing:  # the frame is in the log, so a replica that lags served the read
            raise Transient(str(missing), delay_s=0.2) from missing

    async def _take(self, followed: FollowedTrajectory, frame: Frame, position: int, *, run: int) -> None:
        trajectory = followed.trajectory
        if run > trajectory.position + 1 and followed.run != run:
            # Frames in between may have been delivered to an earlier leader, and are delivered again only later.
            async for missed, at in self._logs.frames(frame.sandbox_id, after=trajectory.position):
                await self._append(followed, trajectory, trajectory.take_frame(missed, at))
            followed.run = run
        elif frame.kind is FrameKind.EVENTS and frame.first > trajectory.next:
            text = f"a frame of {frame.sandbox_id} begins at seq {frame.first}, but {trajectory.next} is expected"
            raise Transient(text, delay_s=0.1)
        await self._append(followed, trajectory, trajectory.take_frame(frame, position))

    async def add_input(
        self, sandbox_id: str, make: Callable[[Trajectory], GuardianInput | None]
    ) -> FollowedTrajectory:
        """Record and fold the input that `make` returns for the present trajectory; nothing if it returns None.

        `make` may be called several times, each time with a newly loaded trajectory. Raises `NotFound` for a sandbox
        without a log, `Deposed`, `Transient` after several tries, and the faults of the bus.
        """
        tries = 0
        while True:
            tries += 1
            try:
                async with self._locked(sandbox_id) as followed:
                    if (given := make(followed.trajectory)) is not None:
                        await self._input(followed, given)
                    return followed
            except Deposed:
                raise
            except Transient as again:
                if tries >= INPUT_TRIES:
                    raise
                await asyncio.sleep(again.delay_s)

    async def load(self, sandbox_id: str) -> FollowedTrajectory:
        """Load a trajectory if it is not loaded, and call the listeners.

        A load records and publishes the decisions that a crash left unrecorded or unpublished.
        """
        return await self.add_input(sandbox_id, lambda _: None)

    @asynccontextmanager
    async def _locked(self, sandbox_id: str) -> AsyncGenerator[FollowedTrajectory]:
        """Load and lock a trajectory. After any failure it is dropped from memory, which may be ahead of the log."""
        slot = self._slots.setdefault(sandbox_id, _SandboxSlot())
        slot.users += 1
        try:
            async with slot.lock:
                try:
                    followed = slot.followed = slot.followed or await self._load(sandbox_id)
                    yield followed
                    await self._publish(followed)
                except RevisionConflict as conflict:
                    slot.followed = None
                    raise Transient(str(conflict), delay_s=0.05) from conflict
                except BaseException:
                    slot.followed = None
                    raise
                for changed in self._changed:
                    changed(followed.trajectory)
        finally:
            slot.users -= 1
            self._release(sandbox_id, slot)

    def _release(self, sandbox_id: str, slot: _SandboxSlot) -> None:
        followed = slot.followed
        if slot.users or (followed is not None and not followed.trajectory.ended):
            return
        self._slots.pop(sandbox_id, None)
        if followed is not None:  # the log has ended: no more frames come, so the trajectory can be dropped
            self._ended[sandbox_id] = followed.trajectory.position
            self._ended.move_to_end(sandbox_id)
            if len(self._ended) > ENDED_KEPT:
                self._ended.popitem(last=False)

    async def _load(self, sandbox_id: str) -> FollowedTrajectory:
        stored, last = await self._logs.records(sandbox_id)
        # The fencing token: a conflict shows that another guardian has written, its epoch shows which one leads.
        if any(record.guardian_epoch > self._epoch for record in stored):
            raise Deposed(f"the guardian's log of {sandbox_id} has records of a later leader")
        # A new log begins with the policy, because the fold decides nothing without one.
        records = stored or [self._record(self._policy, n=1, after=None)]
        refold = Refold(sandbox_id, records)
        async for frame, position in self._logs.frames(sandbox_id):
            refold.frame(frame, position)
        followed = FollowedTrajectory(refold.end(), n=len(records), last=last)
        trajectory = followed.trajectory
        if not trajectory.task_id:
            raise NotFound(f"sandbox {sandbox_id} has no log")
        if not stored:
            followed.last = await self._logs.append(sandbox_id, records[0], last=0)
        if diverged := refold.diverged:
            log.error("guardian records not reproduced by the refold", sandbox_id=sandbox_id, first_n=diverged[0])
        followed.unpublished = await self._unpublished(stored, followed.attempt)
        for record in refold.missing:
            await self._store(followed, record)
        if trajectory.live and trajectory.policy != self._policy:
            await self._input(followed, self._policy)
        return followed

    async def _unpublished(self, stored: Sequence[GuardianRecord], attempt: ReportedAttempt) -> list[GuardianRecord]:
        decided = [record for record in stored if record.role == "decision"]
        known = await self._logs.published_ids(attempt.task_id) if decided else set[str]()
        return [record for record in decided if as_event(record, attempt).event_id not in known]

    async def _input(self, followed: FollowedTrajectory, given: GuardianInput) -> None:
        record = self._record(given, n=followed.n + 1, after=followed.trajectory)
        followed.last = await self._logs.append(followed.trajectory.sandbox_id, record, last=followed.last)
        followed.n = record.n
        await self._append(followed, followed.trajectory, followed.trajectory.take_input(record))

    async def _append(
        self, followed: FollowedTrajectory, trajectory: Trajectory, decisions: Sequence[Decision]
    ) -> None:
        for decision in decisions:
            await self._store(followed, recorded(decision, trajectory, n=0, guardian_epoch=0))

    async def _store(self, followed: FollowedTrajectory, record: GuardianRecord) -> None:
        mine = msgspec.structs.replace(record, n=followed.n + 1, guardian_epoch=self._epoch)
        followed.last = await self._logs.append(followed.trajectory.sandbox_id, mine, last=followed.last)
        followed.n = mine.n
        followed.unpublished.append(mine)

    async def _publish(self, followed: FollowedTrajectory) -> None:
        while followed.unpublished:  # removed after it was published: if that fails, it is published again
            await self._logs.publish(as_event(followed.unpublished[0], followed.attempt))
            followed.unpublished.pop(0)

    def _record(self, given: GuardianInput, *, n: int, after: Trajectory | None) -> GuardianRecord:
        return GuardianRecord(
            n=n,
            after_seq=after.next if after else 1,
            after_position=after.position if after else 0,
            at=self._now(),
            kind=given.KIND,
            role="input",
            guardian_epoch=self._epoch,
            body=msgspec.Raw(encode(given)),
        )
