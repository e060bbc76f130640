"""The interface of a detector: an object that takes the steps of one agent's run and returns findings.

A detector keeps its state between steps and reads no clock. So a replay of the same steps and policies gives the same
findings (I9). To add a detector, write a module here with a class that has the methods of `Detector`, and add the class
to `registry.DETECTORS`.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol

import msgspec

from muster.guardian.journal.domain.inputs import Policy
from muster.guardian.trajectories.domain.steps import Step


class Finding(msgspec.Struct, frozen=True):
    """A problem that a detector found: the steps that show it, a summary for people, and a message for the agent."""

    detector: str
    steps: tuple[Step, ...]
    summary: str
    advice: str

    @property
    def seqs(self) -> list[int]:
        """The numbers of the events that show the trouble, in ascending order."""
        return sorted({seq for step in self.steps for seq in (step.acted.seq, step.observed.seq)})


class Detector(Protocol):
    """One detector of trouble, applied to the steps of one sandbox."""

    NAME: ClassVar[str]
    """The detector's name in findings and reports. The name must never change, because recorded logs contain it."""

    def take(self, step: Step, policy: Policy) -> Sequence[Finding]:
        """Take the next step of the agent, and return the findings that this step completes."""
        ...

    def reset(self) -> None:
        """Forget all steps so far, because a message to the agent was delivered or is being delivered."""
        ...
