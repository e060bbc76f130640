"""An agent as the manager shows it, and the event that the manager publishes when an agent changes."""

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
"""Names that no agent may have, because the subjects with these names have another meaning."""


class AgentView(AgentSpec):
    """An agent. `version` counts its changes and is its ETag. `cites` names the event that proves `state`."""

    agent_id: str
    package: str
    agent_type: str
    agent_version: str
    capabilities: list[str] = []
    """The capabilities of the agent's package and those of the agent itself."""
    is_default: bool
    desired: Desired
    state: AgentState
    state_since: datetime
    cites: str
    """The event that proves `state`: `agents#<agent>/<version>`, `beat#<n>`, `exit#<launch>` or `registered`."""
    reason: str | None
    exit_code: int | None
    launch: int
    """The number of the latest start of the agent's process. It is the fencing token of the process."""
    restarts: int
    """The number of restarts since a command last started the agent."""
    pid: int | None
    owner: str | None
    """The manager that owns the agent's process."""
    last_seen: datetime | None
    live_tasks: int
    version: int
    created_at: datetime
    updated_at: datetime


class AgentChanged(Event, subject="agent.{agent_id}.event.{kind}"):
    """A change of an agent. The manager publishes these events in order of `version` from its outbox.

    The stream is `AGENTS`, and `event_id` is the message id.
    """

    agent_id: str
    kind: str
    event_id: str
    version: int
    at: datetime
    state: AgentState
    desired: Desired
    body: msgspec.Raw = raw(b"{}")
