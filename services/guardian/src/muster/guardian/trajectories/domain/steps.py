"""A step: one action of an agent with its result, and when two steps count as the same."""

import msgspec

from muster.guardian.trajectories.domain.agent_events import Acted, Observed


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
