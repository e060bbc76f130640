"""Derives the state of an agent from its heartbeats or from their absence. Seconds are of a monotonic clock."""

from typing import Final

import msgspec

from muster.common.contracts.agents import AgentState
from muster.common.contracts.limits import MISSED_HEARTBEATS
from muster.common.contracts.worker_api import Beat

LATE: Final = 1.5
"""A heartbeat counts as missed after 1.5 intervals: a delay on a loaded host does not mean that the agent is ill."""


class HeartbeatBounds(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of seconds after which silence changes an agent's state (architecture §7)."""

    running_ttl_s: float = 15.0
    idle_ttl_s: float = 30.0
    inactive_after_s: float = 60.0

    def ttl_s(self, said: AgentState) -> float:
        """Return the number of seconds that an agent in this state may be silent."""
        return self.idle_ttl_s if said == "idle" else self.running_ttl_s


def said(beat: Beat, last: AgentState | None) -> AgentState:
    """Return the state of an agent after a heartbeat: `starting` until a heartbeat reports that the agent is ready."""
    if beat.state in ("waiting", "stopping") and last in (None, "starting"):
        return "starting"
    return "idle" if beat.state == "idle" else "running"


def silent(
    silence_s: float, last: AgentState | None, next_within_s: float, bounds: HeartbeatBounds
) -> AgentState | None:
    """Return the state of an agent after `silence_s` without a heartbeat, or None if the silence changes no state.

    `last` is the state after the last heartbeat. An agent that is not ready yet stays `starting`, and becomes
    `inactive` after a minute of silence.
    """
    if silence_s >= bounds.inactive_after_s:
        return "inactive"
    if last in (None, "starting"):
        return None
    ttl_s = bounds.ttl_s(last)
    if silence_s >= ttl_s:
        return "unresponsive"
    interval_s = min(max(next_within_s, 0.0), ttl_s) or ttl_s / MISSED_HEARTBEATS
    return "degraded" if silence_s >= LATE * interval_s else None


def why(state: AgentState, bounds: HeartbeatBounds) -> str | None:
    """Return why silence led to this state, as a text for people; None for a state that a heartbeat sets."""
    match state:
        case "degraded":
            return "its next heartbeat is overdue"
        case "unresponsive":
            return "it has sent no heartbeat for longer than the TTL"
        case "inactive":
            return f"it has sent no heartbeat for {bounds.inactive_after_s:g} s"
        case _:
            return None
