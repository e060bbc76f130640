"""Keeps the trajectories (folded states) of all live sandboxes in memory, and records the decisions of the fold.

```
not loaded ──load: refold both logs, append missing decisions──▶ loaded ──log ended──▶ released
    ▲                                                             │
    └────── any failure between fold and record: memory may be ahead of the log ──┘
```
For each frame or input, under the lock of its sandbox:

1. fold it, which returns decisions (an input is first appended to the guardian's log);
2. append each decision to the guardian's log, by compare-and-set after the last record;
3. publish each appended decision as an event;
4. call the listeners, which carry out pending decisions.

If the process dies or a call fails at any of these points, the trajectory in memory is dropped and loaded again from
the logs. After step 1, the refold (replay of the logs) makes the same decisions, and the load appends the missing ones.
After step 2, the load compares the records with the published events, and publishes the missing events; event ids are
fixed. After step 3, the listeners are called at the end of the load.

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

from muster.common.bus.message_store import RevisionConflict
from muster.common.clock import Clock
from muster.common.contract import encode
from muster.common.contracts.guardian import GuardianRecord
from muster.common.contracts.sandbox_log import Frame, FrameKind
from muster.common.faults import NotFound, Transient
from muster.guardian.journal.domain.decisions import Decision
from muster.guardian.journal.domain.inputs import GuardianInput, Policy
from muster.guardian.journal.domain.refolding import Refold, recorded
from muster.guardian.journal.domain.task_reports import ReportedAttempt, as_event
from muster.guardian.journal.store import GuardianLogs
from muster.guardian.trajectories.domain.trajectory import Trajectory

log = structlog.get_logger()

ENDED_KEPT = 50_000
"""The number of ended sandboxes whose last position is kept, so that late frames of these sandboxes load nothing."""
INPUT_TRIES = 5

Changed = Callable[[Trajectory], None]


class Deposed(Transient):
    """The guardian's log has records of a later epoch: another guardian leads, and this guardian must stop writing."""


@dataclass
class FollowedTrajectory:
    """The trajectory of a sandbox, and the state of the guardian's log of that sandbox."""

    trajectory: Trajectory
    n: int = 0
    """The number `n` of the last record."""
    last: int = 0
    """The stream position of the last record, which the next append expects."""
    run: int = 0
    """The sequence of deliveries (see `take`) for which earlier, missed frames have been read from the log."""
    unpublished: list[GuardianRecord] = field(default_factory=list[GuardianRecord])
    """Recorded decisions that are not published yet."""

    @property
    def attempt(self) -> ReportedAttempt:
        """The attempt of a task that the trajectory belongs to."""
        return ReportedAttempt(self.trajectory.task_id, self.trajectory.sandbox_id, self.trajectory.epoch)


@dataclass
class _SandboxSlot:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    followed: FollowedTrajectory | None = None


class TrajectoryStore:
    """Keeps the trajectories of this leader: folds frames and inputs, and records and publishes the decisions."""

    def __init__(self, logs: GuardianLogs, *, guardian_epoch: int, policy: Policy, now: Clock) -> None:
        self._logs, self._epoch, self._policy, self._now = logs, guardian_epoch, policy, now
        self._slots: dict[str, _SandboxSlot] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._changed: list[Changed] = []

    def on_change(self, changed: Changed) -> None:
        """From now on, call `changed` with each trajectory that was loaded or that has folded a frame or an input."""
        self._changed.append(changed)

    async def take(self, frame: Frame, position: int, *, run: int) -> None:
        """Fold a frame and record the decisions. `run` is the position where deliveries to this process began.

        Raises `Transient` if the frame must be delivered again, because a read was outdated or an append conflicted.
        """
        if position <= self._ended.get(frame.sandbox_id, 0):
            return
        try:
            async with self._locked(frame.sandbox_id) as followed:
                if position > followed.trajectory.position:
                    await self._take(followed, frame, position, run=run)
        except NotFound as missing:  # The log contains this frame, so a NATS server that lags behind served the read.
            raise Transient(str(missing), delay_s=0.2) from missing

    async def _take(self, followed: FollowedTrajectory, frame: Frame, position: int, *, run: int) -> None:
        trajectory = followed.trajectory
        if run > trajectory.position + 1 and followed.run != run:
            # An earlier leader may have received the frames between the last folded frame and this frame. JetStream
            # redelivers those frames only later, so they are read from the log now.
            async for missed, at in self._logs.frames(frame.sandbox_id, after=trajectory.position):
                await self._append(followed, trajectory, trajectory.take_frame(missed, at))
            followed.run = run
        elif frame.kind is FrameKind.EVENTS and frame.first > trajectory.next:
            text = f"a frame of {frame.sandbox_id} begins with event {frame.first} instead of {trajectory.next}"
            raise Transient(text, delay_s=0.1)
        await self._append(followed, trajectory, trajectory.take_frame(frame, position))

    async def add_input(
        self, sandbox_id: str, make: Callable[[Trajectory], GuardianInput | None]
    ) -> FollowedTrajectory:
        """Record and fold the input that `make` returns for the present trajectory; do nothing if it returns None.

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
        """Load the trajectory of a sandbox if it is not in memory, and call the listeners.

        If a crash prevented decisions from being recorded or published, this function records and publishes them.
        """
        return await self.add_input(sandbox_id, lambda _: None)

    @asynccontextmanager
    async def _locked(self, sandbox_id: str) -> AsyncGenerator[FollowedTrajectory]:
        """Load and lock a trajectory. After any failure, drop it from memory, where it may be newer than the log."""
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
        if followed is not None:  # The log has ended, so no more frames arrive.
            self._ended[sandbox_id] = followed.trajectory.position
            self._ended.move_to_end(sandbox_id)
            if len(self._ended) > ENDED_KEPT:
                self._ended.popitem(last=False)

    async def _load(self, sandbox_id: str) -> FollowedTrajectory:
        stored, last = await self._logs.records(sandbox_id)
        # The guardian with the highest epoch (fencing token) leads. A record with a higher epoch than this guardian's
        # epoch shows that another guardian leads now.
        if any(record.guardian_epoch > self._epoch for record in stored):
            raise Deposed(f"the guardian's log of sandbox {sandbox_id} has records of a later leader")
        # A new log begins with the policy, because the fold makes no decisions without a policy.
        records = stored or [self._record(self._policy, n=1, after=None)]
        refold = Refold(sandbox_id, records)
        async for frame, position in self._logs.frames(sandbox_id):
            refold.frame(frame, position)
        followed = FollowedTrajectory(refold.end(), n=len(records), last=last)
        trajectory = followed.trajectory
        if not trajectory.task_id:
            raise NotFound(f"there is no log of sandbox {sandbox_id}")
        if not stored:
            followed.last = await self._logs.append(sandbox_id, records[0], last=0)
        if diverged := refold.diverged:
            log.error("guardian records differ from their replay", sandbox_id=sandbox_id, first_n=diverged[0])
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
        # A decision is removed from `unpublished` only after its publication, so a failed publication is tried again.
        while followed.unpublished:
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
