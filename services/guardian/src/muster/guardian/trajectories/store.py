"""The folds of the sandboxes being watched, each as far as its two logs are, with one writer at a time."""

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
INPUT_TRIES = 5

Changed = Callable[[Trajectory], None]


class Deposed(Transient):
    """Another guardian leads: this one must write no more, and its election loop will notice."""


@dataclass
class FollowedTrajectory:
    """A fold and where its log stands."""

    trajectory: Trajectory
    n: int = 0
    last: int = 0
    run: int = 0
    unpublished: list[GuardianRecord] = field(default_factory=list[GuardianRecord])

    @property
    def attempt(self) -> ReportedAttempt:
        """The attempt it belongs to."""
        return ReportedAttempt(self.trajectory.task_id, self.trajectory.sandbox_id, self.trajectory.epoch)


@dataclass
class _SandboxSlot:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    followed: FollowedTrajectory | None = None


class TrajectoryStore:
    """Takes frames and inputs; what they lead to is appended, then published, then handed to `changed`."""

    def __init__(self, logs: GuardianLogs, *, guardian_epoch: int, policy: Policy, now: Clock) -> None:
        self._logs, self._epoch, self._policy, self._now = logs, guardian_epoch, policy, now
        self._slots: dict[str, _SandboxSlot] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._changed: list[Changed] = []

    def on_change(self, changed: Changed) -> None:
        """Call `changed` with each trajectory that was loaded or took something."""
        self._changed.append(changed)

    async def take(self, frame: Frame, position: int, *, run: int) -> None:
        """Fold a frame. `run` is where the unbroken row of deliveries of its partition began.

        Raises `Transient` when the logs have to be read again first.
        """
        if position <= self._ended.get(frame.sandbox_id, 0):
            return
        try:
            async with self._locked(frame.sandbox_id) as followed:
                if position > followed.trajectory.position:
                    await self._take(followed, frame, position, run=run)
        except NotFound as missing:  # the frame is in the log, so the replay was behind
            raise Transient(str(missing), delay_s=0.2) from missing

    async def _take(self, followed: FollowedTrajectory, frame: Frame, position: int, *, run: int) -> None:
        trajectory = followed.trajectory
        if run > trajectory.position + 1 and followed.run != run:
            # What lies between may have been delivered to a leader that was stopped and comes again later.
            async for missed, at in self._logs.frames(frame.sandbox_id, after=trajectory.position):
                await self._append(followed, trajectory, trajectory.take_frame(missed, at))
            followed.run = run
        elif frame.kind is FrameKind.EVENTS and frame.first > trajectory.next:
            raise Transient(f"{frame.sandbox_id}: {frame.first} came, {trajectory.next} is next", delay_s=0.1)
        await self._append(followed, trajectory, trajectory.take_frame(frame, position))

    async def add_input(
        self, sandbox_id: str, make: Callable[[Trajectory], GuardianInput | None]
    ) -> FollowedTrajectory:
        """Record and fold the input that `say` makes of the present state; None means there is no need of one.

        Raises `NotFound` for a sandbox without a log, `Transient` and the bus's faults.
        """
        tries = 0
        while True:
            tries += 1
            try:
                async with self._locked(sandbox_id) as followed:
                    if (taken := make(followed.trajectory)) is not None:
                        await self._input(followed, taken)
                    return followed
            except Deposed:
                raise
            except Transient as again:
                if tries >= INPUT_TRIES:
                    raise
                await asyncio.sleep(again.delay_s)

    async def load(self, sandbox_id: str) -> FollowedTrajectory:
        """Have it loaded: what was decided and not done yet is taken up again."""
        return await self.add_input(sandbox_id, lambda _: None)

    @asynccontextmanager
    async def _locked(self, sandbox_id: str) -> AsyncGenerator[FollowedTrajectory]:
        """The followed, loaded and locked. What fails in between makes it be loaded again: memory may be ahead."""
        slot = self._slots.setdefault(sandbox_id, _SandboxSlot())
        slot.users += 1
        try:
            async with slot.lock:
                try:
                    followed = slot.followed = slot.followed or await self._load(sandbox_id)
                    yield followed
                    await self._publish(followed)
                except RevisionConflict as outrun:
                    slot.followed = None
                    raise Transient(str(outrun), delay_s=0.05) from outrun
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
        if followed is not None:
            self._ended[sandbox_id] = followed.trajectory.position
            self._ended.move_to_end(sandbox_id)
            if len(self._ended) > ENDED_KEPT:
                self._ended.popitem(last=False)

    async def _load(self, sandbox_id: str) -> FollowedTrajectory:
        stored, last = await self._logs.records(sandbox_id)
        if any(record.guardian_epoch > self._epoch for record in stored):
            raise Deposed(f"{sandbox_id} has records of a later guardian")
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
            log.error("records do not fold to the same again", sandbox_id=sandbox_id, first_n=diverged[0])
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

    async def _input(self, followed: FollowedTrajectory, taken: GuardianInput) -> None:
        record = self._record(taken, n=followed.n + 1, after=followed.trajectory)
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
        while followed.unpublished:
            await self._logs.publish(as_event(followed.unpublished[0], followed.attempt))
            followed.unpublished.pop(0)

    def _record(self, taken: GuardianInput, *, n: int, after: Trajectory | None) -> GuardianRecord:
        return GuardianRecord(
            n=n,
            after_seq=after.next if after else 1,
            after_position=after.position if after else 0,
            at=self._now(),
            kind=taken.KIND,
            role="input",
            guardian_epoch=self._epoch,
            body=msgspec.Raw(encode(taken)),
        )
