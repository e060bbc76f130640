"""Counts in memory what the model calls of each sandbox have used, including the calls that still run.

The record of each call contains the use of its sandbox up to the call. So a gateway that has just started continues
with the use in the latest record.
"""

from collections import OrderedDict

import msgspec

from muster.common.contracts.attempts import UsedSoFar
from muster.common.contracts.model_calls import ModelCalled
from muster.sandbox_gateway.models.domain.limits import plus, settled

_REMEMBERED = 20_000


class SandboxUse:
    """The use of all sandboxes whose model calls this gateway makes."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, UsedSoFar] = OrderedDict()
        self._refused: OrderedDict[tuple[str, str], None] = OrderedDict()

    def knows(self, sandbox_id: str) -> bool:
        """Return whether the use of a sandbox is in memory."""
        return sandbox_id in self._used

    def learn(self, sandbox_id: str, used: UsedSoFar) -> None:
        """Remember the use of a sandbox from the records of its calls, unless a call has been counted meanwhile."""
        self._used.setdefault(sandbox_id, used)

    def used(self, sandbox_id: str, last: ModelCalled | None) -> UsedSoFar:
        """Return the use of a sandbox. `last` is the record of its latest call, perhaps by another gateway."""
        stored = last.used if last else UsedSoFar()
        known = self._used.get(sandbox_id, stored)
        return known if known.steps >= stored.steps else stored

    def begin(self, call: ModelCalled) -> ModelCalled:
        """Count a call with its reserved usage, and return its record with the use up to this call."""
        return self._remember(call, plus(self.used(call.sandbox_id, call), call))

    def settle(self, reserved: ModelCalled, measured: ModelCalled) -> ModelCalled:
        """Count a call that has ended with its measured usage, and return its record with the use up to this call."""
        return self._remember(measured, settled(self.used(reserved.sandbox_id, reserved), reserved, measured))

    def first_refusal(self, sandbox_id: str, code: str) -> bool:
        """Return whether this gateway refuses a call of this sandbox for this reason for the first time."""
        key = (sandbox_id, code)
        if key in self._refused:
            return False
        self._refused[key] = None
        if len(self._refused) > _REMEMBERED:
            self._refused.popitem(last=False)
        return True

    def forget_refusal(self, sandbox_id: str, code: str) -> None:
        """Make the next refusal for this reason the first one again."""
        self._refused.pop((sandbox_id, code), None)

    def _remember(self, call: ModelCalled, used: UsedSoFar) -> ModelCalled:
        self._used[call.sandbox_id] = used
        self._used.move_to_end(call.sandbox_id)
        if len(self._used) > _REMEMBERED:
            self._used.popitem(last=False)
        return msgspec.structs.replace(call, used=used)
