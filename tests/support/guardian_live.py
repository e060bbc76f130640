"""Folds frames in memory as the guardian's service does, without a bus."""

from collections.abc import Sequence
from datetime import timedelta

import msgspec

from muster.common.contract import encode
from muster.common.contracts.guardian import GuardianRecord
from muster.common.contracts.sandbox_log import Frame
from muster.guardian.journal.domain.inputs import GuardianInput, Policy
from muster.guardian.journal.domain.refolding import recorded
from muster.guardian.journal.domain.task_reports import ReportedAttempt, interventions
from muster.guardian.trajectories.domain.trajectory import Trajectory
from tests.support.sandbox_script import BEGAN, Script

WHOSE = ReportedAttempt("tsk_one", "sbx_one", 1)


class Live:
    """A fold of frames and inputs that stores the records of the guardian's log in a list."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.trajectory = Trajectory("sbx_one")
        self.records: list[GuardianRecord] = []
        self.position = 0
        self.give(policy or Policy())

    def play(self, frames: Sequence[Frame]) -> "Live":
        for frame in frames:
            self.position += 10
            self._keep(self.trajectory.take_frame(frame, self.position))
        return self

    def give(self, said: GuardianInput) -> "Live":
        record = GuardianRecord(
            n=len(self.records) + 1,
            after_seq=self.trajectory.next,
            after_position=self.trajectory.position,
            at=BEGAN + timedelta(seconds=self.position),
            kind=said.KIND,
            role="input",
            guardian_epoch=1,
            body=msgspec.Raw(encode(said)),
        )
        self.records.append(record)
        self._keep(self.trajectory.take_input(record))
        return self

    def _keep(self, decisions: Sequence[object]) -> None:
        for decision in decisions:
            n = len(self.records) + 1
            self.records.append(recorded(decision, self.trajectory, n=n, guardian_epoch=1))  # pyright: ignore[reportArgumentType]

    @property
    def kinds(self) -> list[str]:
        return [record.kind for record in self.records if record.role == "decision"]

    @property
    def message_id(self) -> str:
        return next(iter(self.trajectory.interventions))

    @property
    def view(self) -> tuple[str, str | None, list[str]]:
        """Stage, outcome and receipt stages of the first intervention."""
        first = interventions(self.records, WHOSE)[0]
        return first.stage, first.outcome, [receipt.stage for receipt in first.receipts]


def repeating(times: int = 4) -> Script:
    script = Script().says(None, "fix the bug")
    for number in range(times):
        script.step("pytest -q", f"\x1b[31m1 failed\x1b[0m in {number}.4{number}s", thought=f"attempt {number}")
    return script
