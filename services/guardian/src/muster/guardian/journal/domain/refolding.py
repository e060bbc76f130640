"""Folding again from the two logs: the same records come out, and what is missing at the end is found (I9)."""

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from muster.common.contract import encode
from muster.common.contracts.guardian import GuardianRecord
from muster.common.contracts.sandbox_log import Frame
from muster.guardian.journal.domain.decisions import Decision, read_decision
from muster.guardian.trajectories.domain.trajectory import Trajectory


def recorded(decision: Decision, trajectory: Trajectory, *, n: int, guardian_epoch: int) -> GuardianRecord:
    """A decision as it stands in the log; its time and place are those of what was just folded."""
    return GuardianRecord(
        n=n,
        after_seq=trajectory.next,
        after_position=trajectory.position,
        at=trajectory.at,
        kind=decision.kind,
        role="decision",
        guardian_epoch=guardian_epoch,
        body=msgspec.Raw(encode(decision)),
    )


class Refold:
    """Takes a sandbox's frames in order, puts recorded inputs where they were taken, numbers what is decided."""

    def __init__(self, sandbox_id: str, records: Sequence[GuardianRecord]) -> None:
        self.trajectory = Trajectory(sandbox_id)
        self.folded: list[GuardianRecord] = []
        self._stored = records
        self._inputs = deque(record for record in records if record.role == "input")

    def frame(self, frame: Frame, position: int) -> None:
        """Fold the inputs that came before this frame, then the frame."""
        while self._inputs and self._inputs[0].after_position < position:
            self._take_input()
        self._number(self.trajectory.take_frame(frame, position))

    def end(self) -> Trajectory:
        """Fold the inputs that came after the last frame."""
        while self._inputs:
            self._take_input()
        return self.trajectory

    @property
    def missing(self) -> list[GuardianRecord]:
        """What was decided and not stored, in order.

        Told by the decisions' ids, so that a log whose past this version would have judged otherwise goes on as well.
        """
        stored = {read_decision(record).id for record in self._stored if record.role == "decision"}
        return [one for one in self.folded if one.role == "decision" and read_decision(one).id not in stored]

    @property
    def diverged(self) -> list[int]:
        """The `n` of stored records that folding does not give again, byte by byte (the writer's epoch aside)."""
        again = [_essence(record) for record in self.folded[: len(self._stored)]]
        stored = [_essence(record) for record in self._stored]
        return [
            n for n, pair in enumerate(zip(stored, [*again, *[b""] * len(stored)], strict=False), 1) if len({*pair}) > 1
        ]

    def _take_input(self) -> None:
        record = self._inputs.popleft()
        self.folded.append(record)
        self._number(self.trajectory.take_input(record))

    def _number(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            n = len(self.folded) + 1
            epoch = self._stored[n - 1].guardian_epoch if n <= len(self._stored) else 0
            self.folded.append(recorded(decision, self.trajectory, n=n, guardian_epoch=epoch))


def _essence(record: GuardianRecord) -> bytes:
    return encode(msgspec.structs.replace(record, guardian_epoch=0))
