"""The interface of a detector: an object that takes the steps of one trajectory and returns findings.

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
    """The trouble that a detector found: the steps that show it, a summary for people, and the text for the agent."""

    detector: str
    steps: tuple[Step, ...]
    summary: str
    advice: str

    @property
    def seqs(self) -> list[int]:
        """The numbers of the events that show the finding, in order."""
        return sorted({seq for step in self.steps for seq in (step.acted.seq, step.observed.seq)})


class Detector(Protocol):
    """One rule, applied to one trajectory."""

    NAME: ClassVar[str]
    """The detector's name in findings and reports. It must never change, because recorded logs contain it."""

    def take(self, step: Step, policy: Policy) -> Sequence[Finding]:
        """Take the next step and return the findings that it completes."""
        ...

    def reset(self) -> None:
        """Forget the steps so far, because a message to the agent was delivered or is being delivered."""
        ...
