"""What an agent's beats, and their absence, say of it. Seconds are those of a monotonic clock the caller reads."""

from typing import Final

import msgspec

from muster.common.contracts.agents import AgentState
from muster.common.contracts.doors import Beat

MISSES: Final = 3
"""A time to live is three beat intervals (architecture §7)."""
LATE: Final = 1.5
"""A beat counts as missed when half an interval has passed since it was due: a loaded host is not a sick agent."""


class HeartbeatBounds(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of architecture §7. An agent chooses its interval, but not beyond its time to live."""

    running_ttl_s: float = 15.0
    idle_ttl_s: float = 30.0
    inactive_after_s: float = 60.0

    def ttl_s(self, said: AgentState) -> float:
        """How long an agent that last said this may be silent."""
        return self.idle_ttl_s if said == "idle" else self.running_ttl_s


def said(beat: Beat, last: AgentState | None) -> AgentState:
    """The state a beat speaks of. Before an agent that has said nothing yet has begun, it only proves that it lives."""
    if beat.state in ("waiting", "stopping") and last in (None, "starting"):
        return "starting"
    return "idle" if beat.state == "idle" else "running"


def silent(
    silence_s: float, last: AgentState | None, next_within_s: float, bounds: HeartbeatBounds
) -> AgentState | None:
    """What a silence makes of an agent that `last` said this; None while it may still be so.

    One that has not begun yet is starting for as long as it takes, and `inactive` after a minute like any other.
    """
    if silence_s >= bounds.inactive_after_s:
        return "inactive"
    if last in (None, "starting"):
        return None
    ttl_s = bounds.ttl_s(last)
    if silence_s >= ttl_s:
        return "unresponsive"
    interval_s = min(max(next_within_s, 0.0), ttl_s) or ttl_s / MISSES
    return "degraded" if silence_s >= LATE * interval_s else None


def why(state: AgentState, bounds: HeartbeatBounds) -> str | None:
    """Why a silence makes it so, for a person; None for what a beat says."""
    match state:
        case "degraded":
            return "its last beat is overdue"
        case "unresponsive":
            return "it has not been heard for longer than its beats live"
        case "inactive":
            return f"it has not been heard for {bounds.inactive_after_s:g} s"
        case _:
            return None
