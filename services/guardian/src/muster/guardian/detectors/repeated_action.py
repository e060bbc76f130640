"""The detector `repeated_action`: finds agents that repeat an action with the same result several times in a row."""

from collections.abc import Sequence
from typing import ClassVar

from muster.guardian.detectors.interface import Finding
from muster.guardian.journal.domain.inputs import Policy
from muster.guardian.trajectories.domain.steps import Step


class RepeatedAction:
    """Counts an agent's equal steps in a row since the last message or finding, up to `policy.repeat_threshold`."""

    NAME: ClassVar[str] = "repeated_action"

    def __init__(self) -> None:
        self._run: list[Step] = []

    def reset(self) -> None:
        """Forget all counted steps of the agent."""
        self._run.clear()

    def take(self, step: Step, policy: Policy) -> Sequence[Finding]:
        """Take the next step; return a finding if it is the last of `policy.repeat_threshold` equal steps in a row.

        A step that only waits ends the run of equal steps: the agent expects that something else changes meanwhile.
        """
        if step.only_waits:
            self._run.clear()
            return ()
        if self._run and not self._run[-1].same(step):
            self._run.clear()
        self._run.append(step)
        if len(self._run) < policy.repeat_threshold:
            return ()
        steps = tuple(self._run)
        self._run.clear()
        return (Finding(self.NAME, steps, _summary(steps), _advice(steps)),)


def _summary(steps: Sequence[Step]) -> str:
    label = steps[-1].acted.label
    return f"the same action with the same result (apart from times and numbers) {len(steps)} times in a row: {label}"


def _advice(steps: Sequence[Step]) -> str:
    return (
        f"You have done the same thing {len(steps)} times in a row with the same result "
        f"({steps[-1].acted.label}). Repeating it will not help. Say in one sentence what you now believe "
        "the cause is, then try something different."
    )
