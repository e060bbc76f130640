"""What counts as trouble. One detector so far: an action repeated without progress."""

from collections.abc import Sequence

import msgspec

from muster.guardian.domain.reading import Acted, Observed

REPEATED_ACTION = "repeated_action"


class Step(msgspec.Struct, frozen=True):
    """An action and what it led to."""

    acted: Acted
    observed: Observed

    @property
    def by_loose(self) -> bool:
        """Whether an action that differs in its numbers only would be the same step.

        Only where there is an answer to compare: `mkdir a1`, `mkdir a2` say nothing and are progress.
        """
        return not self.observed.blank

    def same_act(self, acted: Acted) -> bool:
        """Whether `acted` does the same again."""
        return acted.loose == self.acted.loose if self.by_loose else acted.exact == self.acted.exact

    def same(self, other: "Step") -> bool:
        """Whether `other` is the same act with the same result."""
        return self.observed.digest == other.observed.digest and self.same_act(other.acted)


class Repetition(msgspec.Struct, frozen=True):
    """The same step, again and again."""

    steps: tuple[Step, ...]

    @property
    def seqs(self) -> list[int]:
        """The events it rests on."""
        return sorted({seq for step in self.steps for seq in (step.acted.seq, step.observed.seq)})


class RepeatedAction:
    """Counts the same step in a row, since the last message or the last finding."""

    def __init__(self) -> None:
        self._run: list[Step] = []

    def start_again(self) -> None:
        """Something was said or found: what was before counts no more."""
        self._run.clear()

    def take(self, step: Step, threshold: int) -> Repetition | None:
        """Take the next step."""
        if self._run and not self._run[-1].same(step):
            self._run.clear()
        self._run.append(step)
        if len(self._run) < threshold:
            return None
        found = Repetition(tuple(self._run))
        self._run.clear()
        return found


def summary(steps: Sequence[Step]) -> str:
    """One sentence about a repetition."""
    label = steps[-1].acted.label
    return f"the same action with the same result (times and numbers aside) {len(steps)} times in a row: {label}"
