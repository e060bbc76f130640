"""An agent: as the manager shows it, and its changes as they are told."""

from datetime import datetime
from typing import Literal

import msgspec

from muster.common.contract import Event, raw
from muster.common.contracts.agent_spec import AgentSpec

AgentState = Literal[
    "starting",
    "running",
    "idle",
    "degraded",
    "unresponsive",
    "stopping",
    "stopped",
    "error",
    "inactive",
    "quarantined",
]


Desired = Literal["running", "stopped"]


RESERVED = frozenset({"manager", "gateway", "status", "metrics"})
"""No agent is called so: their subjects would be others'."""


class AgentView(AgentSpec):
    """An agent as the manager shows it. `version` counts its changes (the ETag); `cites` is what `state` rests on."""

    agent_id: str
    package: str
    agent_type: str
    agent_version: str
    capabilities: list[str] = []
    """Those of its package, and its own."""
    is_default: bool
    desired: Desired
    state: AgentState
    state_since: datetime
    cites: str
    """`agents#<agent>/<version>`, `beat#<n>`, `exit#<launch>`, or `registered`."""
    reason: str | None
    exit_code: int | None
    launch: int
    """How often it was started; the fencing token of its process."""
    restarts: int
    """Since it was last started by a command."""
    pid: int | None
    owner: str | None
    """The manager that keeps its process."""
    last_seen: datetime | None
    live_tasks: int
    version: int
    created_at: datetime
    updated_at: datetime


class AgentChanged(Event, subject="agent.{agent_id}.event.{kind}"):
    """An agent changed, told by the outbox in order of `version`. Stream `AGENTS`; `event_id` is the message id."""

    agent_id: str
    kind: str
    event_id: str
    version: int
    at: datetime
    state: AgentState
    desired: Desired
    body: msgspec.Raw = raw(b"{}")
