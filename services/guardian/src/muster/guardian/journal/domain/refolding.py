"""The refold: replays the two logs of a sandbox, and finds decisions that a crash left unrecorded (I9).

The fold is the pure function that makes decisions from frames and inputs in their order. The order is recorded: an
input's `after_position` names the frame before it. So a refold makes the same decisions with the same ids:
```
sandbox log:     frame 1   frame 2                frame 3
guardian log:                       input A                  decision d1
refold:          frame 1 ▶ frame 2 ▶ input A ▶ frame 3 ▶ d1, d2      missing: d2
```
The guardian records a decision after the fold has made the decision. If the process dies between the two, the next
leader refolds, finds the missing decisions by their ids, and appends exactly these decisions. If the process dies after
an input was recorded, the refold folds that input.

`diverged` reports records that the refold does not reproduce, for example after an upgrade that changed a detector. The
recorded decisions stay valid then; the guardian only logs the difference.
"""

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from muster.common.contract import encode
from muster.common.contracts.guardian import GuardianRecord
from muster.common.contracts.sandbox_log import Frame
from muster.guardian.journal.domain.decisions import Decision, read_decision
from muster.guardian.trajectories.domain.trajectory import Trajectory


def recorded(decision: Decision, trajectory: Trajectory, *, n: int, guardian_epoch: int) -> GuardianRecord:
    """Make the record of a decision, with the time and the position of the frame or input that led to the decision."""
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
    """Folds the frames of a sandbox and the recorded inputs in their order, and numbers the resulting records."""

    def __init__(self, sandbox_id: str, records: Sequence[GuardianRecord]) -> None:
        self.trajectory = Trajectory(sandbox_id)
        self.folded: list[GuardianRecord] = []
        self._stored = records
        self._inputs = deque(record for record in records if record.role == "input")

    def frame(self, frame: Frame, position: int) -> None:
        """Fold the inputs that were recorded before this frame, then fold the frame."""
        while self._inputs and self._inputs[0].after_position < position:
            self._take_input()
        self._number(self.trajectory.take_frame(frame, position))

    def end(self) -> Trajectory:
        """Fold the inputs that were recorded after the last frame, and return the trajectory."""
        while self._inputs:
            self._take_input()
        return self.trajectory

    @property
    def missing(self) -> list[GuardianRecord]:
        """The decisions that this replay of the logs made and that are not in the guardian's log, in their order.

        Decisions are compared by their ids, not by their positions. So a log can be continued even if this version of
        the code decides differently about earlier frames.
        """
        stored = {read_decision(record).id for record in self._stored if record.role == "decision"}
        return [one for one in self.folded if one.role == "decision" and read_decision(one).id not in stored]

    @property
    def diverged(self) -> list[int]:
        """The numbers `n` of stored records that this replay does not reproduce exactly; epochs are not compared."""
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
            # The fold does not compute the guardian's epoch, so the comparison uses the epoch of the stored record.
            epoch = self._stored[n - 1].guardian_epoch if n <= len(self._stored) else 0
            self.folded.append(recorded(decision, self.trajectory, n=n, guardian_epoch=epoch))


def _essence(record: GuardianRecord) -> bytes:
    return encode(msgspec.structs.replace(record, guardian_epoch=0))
