"""A step: one action of an agent with its result, and the rules that decide whether two steps are equal."""

import msgspec

from muster.guardian.trajectories.domain.agent_events import Acted, Observed
from muster.guardian.trajectories.domain.waiting import Waiting


class Step(msgspec.Struct, frozen=True):
    """One action of an agent, and the result of the action."""

    acted: Acted
    observed: Observed

    @property
    def ignores_numbers(self) -> bool:
        """Whether actions that differ only in their numbers count as equal to this step's action.

        Numbers are ignored only if the action printed a result. The commands `mkdir a1` and `mkdir a2` print nothing;
        they are progress, not repetition.
        """
        return not self.observed.blank

    @property
    def only_waits(self) -> bool:
        """Whether the action does nothing but wait, such as `sleep 30; echo ready`. It is no repetition of anything."""
        return self.acted.waits is Waiting.ONLY

    def same_action(self, acted: Acted) -> bool:
        """Return whether `acted` is the same action as the action of this step."""
        return acted.loose == self.acted.loose if self.ignores_numbers else acted.exact == self.acted.exact

    def same(self, other: "Step") -> bool:
        """Return whether `other` is the same action with the same result as this step.

        The results of a command that waits are compared with their numbers, because `[3/90]` followed by `[7/90]` is
        the progress that the agent waits for.
        """
        if self.acted.waits is not Waiting.NONE and self.observed.exact != other.observed.exact:
            return False
        return self.observed.digest == other.observed.digest and self.same_action(other.acted)
