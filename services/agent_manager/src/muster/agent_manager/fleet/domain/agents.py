"""The record of an agent, a registered worker with a name, as stored in the database."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import msgspec

from muster.common.contracts.agent_spec import AgentSpec
from muster.common.contracts.agents import AgentState, Desired
from muster.common.contracts.packages import Mode

SETTLED: Final = frozenset[AgentState]({"stopped", "error", "quarantined"})
"""States of an agent in which no process of the agent runs."""
TAKES_TASKS: Final = frozenset[AgentState]({"idle", "running"})
"""States in which an agent in sandbox mode receives tasks."""


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.agents`. Processes of launches with a number below `min_launch` must be replaced."""

    agent_id: str
    spec: AgentSpec
    package: str
    is_default: bool
    agent_type: str
    agent_version: str
    capabilities: list[str]
    """The capabilities of the agent's package, then those of the agent itself."""
    desired: Desired
    state: AgentState
    state_since: datetime
    cites: str
    created_at: datetime
    updated_at: datetime
    version: int = 1
    reason: str | None = None
    exit_code: int | None = None
    launch: int = 0
    restarts: int = 0
    min_launch: int = 0
    command_id: str | None = None
    """The id of the last command that was carried out for this agent."""
    owner: str | None = None
    fence: int = 0
    pid: int | None = None
    last_seen: datetime | None = None
    beat: dict[str, Any] | None = None
    metrics: dict[str, float] = {}
    metrics_at: datetime | None = None
    deleted_at: datetime | None = None
    """Rows of deleted agents are kept, so that neither a version nor a launch number is used twice."""
    deletions: int = 0
    """The number of deleted agents with this id that may have left files or processes on a host."""
    cleanups: int = 0
    """The number of deleted agents with this id whose processes, files and credentials have been removed."""

    @property
    def name(self) -> str:
        """The name of the agent, by which people find it."""
        return self.spec.name

    @property
    def mode(self) -> Mode:
        """Whether the agent runs tasks in sandboxes (`sandbox`) or is a single process (`process`)."""
        return self.spec.mode

    @property
    def life(self) -> int:
        """The number of this agent among all agents that ever had this id, from 1. Each has a separate directory."""
        return max(1, self.deletions + (self.deleted_at is None))

    @property
    def uncleaned(self) -> bool:
        """Whether files or processes of deleted agents with this id may remain. New launches wait for their removal."""
        return self.cleanups < self.deletions


def all_capabilities(package: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return the capabilities of an agent: those of its package, then those of the agent itself, without duplicates."""
    return list(dict.fromkeys([*package, *own]))
