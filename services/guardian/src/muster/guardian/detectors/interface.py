"""What a detector is: a small pure object that takes the steps of one trajectory and reports findings.

A detector keeps its own state between steps and reads no clock, so that a replay of the same steps and policies gives
the same findings (I9). To add one: write a module here with a class that has the methods of `Detector`, and name the
class in `registry.DETECTORS`.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol

import msgspec

from muster.guardian.journal.domain.inputs import Policy
from muster.guardian.trajectories.domain.steps import Step


class Finding(msgspec.Struct, frozen=True):
    """Trouble that a detector found: the steps that show it, a sentence for people, and the text for the agent."""

    detector: str
    steps: tuple[Step, ...]
    summary: str
    advice: str

    @property
    def seqs(self) -> list[int]:
        """Return the numbers of the events that show it, in order."""
        return sorted({seq for step in self.steps for seq in (step.acted.seq, step.observed.seq)})


class Detector(Protocol):
    """One rule, for one trajectory."""

    NAME: ClassVar[str]
    """Stands in findings and reports; never changes, because recorded logs hold it."""

    def take(self, step: Step, policy: Policy) -> Sequence[Finding]:
        """Take the next step; return what it completes."""
        ...

    def reset(self) -> None:
        """Forget the steps so far: a message reached the agent, or one is on its way."""
        ...
