"""A step: one action of an agent with its result, and the rules by which two steps are equal."""

import msgspec

from muster.guardian.trajectories.domain.agent_events import Acted, Observed


class Step(msgspec.Struct, frozen=True):
    """An action and its result."""

    acted: Acted
    observed: Observed

    @property
    def ignores_numbers(self) -> bool:
        """Whether actions that differ only in their numbers count as equal to this step's action.

        Only if the action printed a result that can be compared: `mkdir a1` and `mkdir a2` print nothing, and are
        progress and not a repetition.
        """
        return not self.observed.blank

    def same_action(self, acted: Acted) -> bool:
        """Whether `acted` is the same action as that of this step."""
        return acted.loose == self.acted.loose if self.ignores_numbers else acted.exact == self.acted.exact

    def same(self, other: "Step") -> bool:
        """Whether `other` is the same action with the same result."""
        return self.observed.digest == other.observed.digest and self.same_action(other.acted)
