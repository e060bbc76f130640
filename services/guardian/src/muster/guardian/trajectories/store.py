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
from muster.guardian.journal.domain.reports import ReportedAttempt, told
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
    untold: list[GuardianRecord] = field(default_factory=list[GuardianRecord])

    @property
    def whose(self) -> ReportedAttempt:
        """The attempt it belongs to."""
        return ReportedAttempt(self.trajectory.task_id, self.trajectory.sandbox_id, self.trajectory.epoch)


@dataclass
class _SandboxSlot:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    course: FollowedTrajectory | None = None


class TrajectoryStore:
    """Takes frames and inputs; what they lead to is appended, then published, then handed to `changed`."""

    def __init__(self, logs: GuardianLogs, *, guardian_epoch: int, policy: Policy, now: Clock) -> None:
        self._logs, self._epoch, self._policy, self._now = logs, guardian_epoch, policy, now
        self._places: dict[str, _SandboxSlot] = {}
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
            async with self._at(frame.sandbox_id) as course:
                if position > course.trajectory.position:
                    await self._take(course, frame, position, run=run)
        except NotFound as missing:  # the frame is in the log, so the replay was behind
            raise Transient(str(missing), delay_s=0.2) from missing

    async def _take(self, course: FollowedTrajectory, frame: Frame, position: int, *, run: int) -> None:
        trajectory = course.trajectory
        if run > trajectory.position + 1 and course.run != run:
            # What lies between may have been delivered to a leader that was stopped and comes again later.
            async for missed, at in self._logs.frames(frame.sandbox_id, after=trajectory.position):
                await self._append(course, trajectory, trajectory.take_frame(missed, at))
            course.run = run
        elif frame.kind is FrameKind.EVENTS and frame.first > trajectory.next:
            raise Transient(f"{frame.sandbox_id}: {frame.first} came, {trajectory.next} is next", delay_s=0.1)
        await self._append(course, trajectory, trajectory.take_frame(frame, position))

    async def give(self, sandbox_id: str, say: Callable[[Trajectory], GuardianInput | None]) -> FollowedTrajectory:
        """Record and fold the input that `say` makes of the present state; None means there is no need of one.

        Raises `NotFound` for a sandbox without a log, `Transient` and the bus's faults.
        """
        tries = 0
        while True:
            tries += 1
            try:
                async with self._at(sandbox_id) as course:
                    if (said := say(course.trajectory)) is not None:
                        await self._input(course, said)
                    return course
            except Deposed:
                raise
            except Transient as again:
                if tries >= INPUT_TRIES:
                    raise
                await asyncio.sleep(again.delay_s)

    async def touch(self, sandbox_id: str) -> FollowedTrajectory:
        """Have it loaded: what was decided and not done yet is taken up again."""
        return await self.give(sandbox_id, lambda _: None)

    @asynccontextmanager
    async def _at(self, sandbox_id: str) -> AsyncGenerator[FollowedTrajectory]:
        """The course, loaded and locked. What fails in between makes it be loaded again: memory may be ahead."""
        place = self._places.setdefault(sandbox_id, _SandboxSlot())
        place.users += 1
        try:
            async with place.lock:
                try:
                    course = place.course = place.course or await self._load(sandbox_id)
                    yield course
                    await self._tell(course)
                except RevisionConflict as outrun:
                    place.course = None
                    raise Transient(str(outrun), delay_s=0.05) from outrun
                except BaseException:
                    place.course = None
                    raise
                for changed in self._changed:
                    changed(course.trajectory)
        finally:
            place.users -= 1
            self._let_go(sandbox_id, place)

    def _let_go(self, sandbox_id: str, place: _SandboxSlot) -> None:
        course = place.course
        if place.users or (course is not None and not course.trajectory.ended):
            return
        self._places.pop(sandbox_id, None)
        if course is not None:
            self._ended[sandbox_id] = course.trajectory.position
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
        course = FollowedTrajectory(refold.end(), n=len(records), last=last)
        trajectory = course.trajectory
        if not trajectory.task_id:
            raise NotFound(f"sandbox {sandbox_id} has no log")
        if not stored:
            course.last = await self._logs.append(sandbox_id, records[0], last=0)
        if diverged := refold.diverged:
            log.error("records do not fold to the same again", sandbox_id=sandbox_id, first_n=diverged[0])
        course.untold = await self._untold(stored, course.whose)
        for record in refold.missing:
            await self._store(course, record)
        if trajectory.live and trajectory.policy != self._policy:
            await self._input(course, self._policy)
        return course

    async def _untold(self, stored: Sequence[GuardianRecord], whose: ReportedAttempt) -> list[GuardianRecord]:
        decided = [record for record in stored if record.role == "decision"]
        known = await self._logs.told(whose.task_id) if decided else set[str]()
        return [record for record in decided if told(record, whose).event_id not in known]

    async def _input(self, course: FollowedTrajectory, said: GuardianInput) -> None:
        record = self._record(said, n=course.n + 1, after=course.trajectory)
        course.last = await self._logs.append(course.trajectory.sandbox_id, record, last=course.last)
        course.n = record.n
        await self._append(course, course.trajectory, course.trajectory.take_input(record))

    async def _append(self, course: FollowedTrajectory, trajectory: Trajectory, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            await self._store(course, recorded(decision, trajectory, n=0, guardian_epoch=0))

    async def _store(self, course: FollowedTrajectory, record: GuardianRecord) -> None:
        mine = msgspec.structs.replace(record, n=course.n + 1, guardian_epoch=self._epoch)
        course.last = await self._logs.append(course.trajectory.sandbox_id, mine, last=course.last)
        course.n = mine.n
        course.untold.append(mine)

    async def _tell(self, course: FollowedTrajectory) -> None:
        while course.untold:
            await self._logs.tell(told(course.untold[0], course.whose))
            course.untold.pop(0)

    def _record(self, said: GuardianInput, *, n: int, after: Trajectory | None) -> GuardianRecord:
        return GuardianRecord(
            n=n,
            after_seq=after.next if after else 1,
            after_position=after.position if after else 0,
            at=self._now(),
            kind=said.KIND,
            role="input",
            guardian_epoch=self._epoch,
            body=msgspec.Raw(encode(said)),
        )
