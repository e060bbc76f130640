"""The state that an agent's heartbeats, or their absence, mean. Seconds are those of a monotonic clock."""

from typing import Final

import msgspec

from muster.common.contracts.agents import AgentState
from muster.common.contracts.doors import Beat

MISSES: Final = 3
"""The TTL of a heartbeat is three intervals (architecture §7)."""
LATE: Final = 1.5
"""A heartbeat counts as missed half an interval after it was due: a loaded host does not mean a sick agent."""


class HeartbeatBounds(msgspec.Struct, frozen=True, kw_only=True):
    """The intervals and TTLs of architecture §7. An agent chooses its interval, but not one beyond its TTL."""

    running_ttl_s: float = 15.0
    idle_ttl_s: float = 30.0
    inactive_after_s: float = 60.0

    def ttl_s(self, said: AgentState) -> float:
        """Return for how many seconds an agent in this state may be silent."""
        return self.idle_ttl_s if said == "idle" else self.running_ttl_s


def said(beat: Beat, last: AgentState | None) -> AgentState:
    """Return the state that a heartbeat means. Before the agent is ready, a heartbeat only proves that it runs."""
    if beat.state in ("waiting", "stopping") and last in (None, "starting"):
        return "starting"
    return "idle" if beat.state == "idle" else "running"


def silent(
    silence_s: float, last: AgentState | None, next_within_s: float, bounds: HeartbeatBounds
) -> AgentState | None:
    """Return the state that a silence means after the heartbeat `last`, or None if the silence is still allowed.

    An agent that is not ready yet stays `starting` for as long as it needs, and becomes `inactive` after a minute of
    silence.
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
    """Return the reason for the state after a silence, for people; None for a state that a heartbeat means."""
    match state:
        case "degraded":
            return "its last beat is overdue"
        case "unresponsive":
            return "it has not been heard for longer than its beats live"
        case "inactive":
            return f"it has not been heard for {bounds.inactive_after_s:g} s"
        case _:
            return None
