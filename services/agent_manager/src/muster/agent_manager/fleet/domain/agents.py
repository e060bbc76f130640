"""An agent as it is stored."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import msgspec

from muster.common.contracts.agent_spec import AgentSpec
from muster.common.contracts.agents import AgentState, Desired
from muster.common.contracts.packages import Mode

SETTLED: Final = frozenset[AgentState]({"stopped", "error", "quarantined"})
"""Nothing of the agent runs in one of these."""
TAKES_TASKS: Final = frozenset[AgentState]({"idle", "running"})
"""An agent of mode sandbox, meant to run, is given tasks in one of these."""


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.agents`. `wished_launch`: no process older than this one will do."""

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
    """The last one that was obeyed."""
    owner: str | None = None
    fence: int = 0
    pid: int | None = None
    last_seen: datetime | None = None
    beat: dict[str, Any] | None = None
    metrics: dict[str, float] = {}
    metrics_at: datetime | None = None
    deleted_at: datetime | None = None
    """Kept for its history, and so that neither a version nor a launch is ever used twice."""
    deaths: int = 0
    """How often an agent of this id was deleted that may have run here."""
    burials: int = 0
    """Of how many of these nothing is left: no process, no file, no credentials."""

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
        """Which agent of this id it is; each has a directory of its own."""
        return max(1, self.deaths + (self.deleted_at is None))

    @property
    def unburied(self) -> bool:
        """Whether something may be left of one before; until that is gone, nothing of this id is launched."""
        return self.burials < self.deaths


def all_capabilities(package: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return the capabilities of an agent: those of its package, then its own, each once."""
    return list(dict.fromkeys([*package, *own]))
