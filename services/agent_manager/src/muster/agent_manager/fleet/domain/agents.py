"""An agent as the database stores it."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import msgspec

from muster.common.contracts.agent_spec import AgentSpec
from muster.common.contracts.agents import AgentState, Desired
from muster.common.contracts.packages import Mode

SETTLED: Final = frozenset[AgentState]({"stopped", "error", "quarantined"})
"""In these states no process of the agent runs."""
TAKES_TASKS: Final = frozenset[AgentState]({"idle", "running"})
"""In these states an agent in sandbox mode is given tasks."""


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.agents`. A process of a launch before `wished_launch` must be replaced."""

    agent_id: str
    spec: AgentSpec
    package: str
    is_default: bool
    agent_type: str
    agent_version: str
    capabilities: list[str]
    """Those of its package, and its own."""
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
    wished_launch: int = 0
    command_id: str | None = None
    """The id of the last command that was carried out."""
    owner: str | None = None
    fence: int = 0
    pid: int | None = None
    last_seen: datetime | None = None
    beat: dict[str, Any] | None = None
    metrics: dict[str, float] = {}
    metrics_at: datetime | None = None
    deleted_at: datetime | None = None
    """Deleted rows stay, so that neither a version nor a launch number is used twice."""
    deaths: int = 0
    """How many agents of this id were deleted that may have left something on a host."""
    burials: int = 0
    """For how many of them everything has been removed: processes, files and credentials."""

    @property
    def name(self) -> str:
        """The name by which people find it."""
        return self.spec.name

    @property
    def mode(self) -> Mode:
        """Whether it takes tasks in sandboxes or is a process."""
        return self.spec.mode

    @property
    def life(self) -> int:
        """Which agent of this id it is, from 1. Each has its own directory."""
        return max(1, self.deaths + (self.deleted_at is None))

    @property
    def unburied(self) -> bool:
        """Whether something of a deleted agent may be left; until it is removed, this id launches nothing."""
        return self.burials < self.deaths


def all_capabilities(package: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return the capabilities of an agent: those of its package, then its own, each once."""
    return list(dict.fromkeys([*package, *own]))
