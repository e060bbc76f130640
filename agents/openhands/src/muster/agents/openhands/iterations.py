"""Counts the model calls of the agent in one attempt, for the option `max_iterations`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from muster.common.contracts.sandbox_log import Finished

if TYPE_CHECKING:
    from openhands.sdk.event import Event

REACHED = "MaxIterationsReached"
"""The code of the SDK's event about the end of a run at its limit."""


class IterationLimit:
    """The option `max_iterations`. The SDK counts only within one run, which an urgent message or a kill ends."""

    def __init__(self, limit: int | UnsetType) -> None:
        self._limit = limit

    def left(self, events: Iterable["Event"]) -> int | None:
        """Return the number of model calls that are left, or None without a limit."""
        if self._limit is UNSET:
            return None
        count, before = 0, None
        for event in events:
            answer: object = getattr(event, "llm_response_id", None)
            # The calls of one answer are events in a row. Some servers give all of their answers the same id.
            count += answer is not None and answer != before
            before = answer
        return max(0, self._limit - count)

    def result(self) -> Finished:
        """Return the result of a run that has reached the limit."""
        return Finished(
            outcome="error",
            error=f"the agent's limit of {self._limit} iterations is reached; set max_iterations in its config higher",
        )
