"""Decides the next step for an agent in process mode, from its desired state, the stored facts and its processes.

```
stopped ─▶ starting ─▶ running | idle ─▶ stopping ─▶ stopped
              ▲              │
              └── error ◀────┘  (exit code other than 0; restarts after 0, 1, 2, 4 … s)
```

A launch is stored before the shim is asked for its process, and the process is known by the number of its launch. So a
manager that starts after a crash, or takes over the agent, sees from the same facts which launch was begun, and
continues it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from muster.agent_manager.fleet.domain.restarts import due, used_up
from muster.common.contracts.agents import AgentState, Desired
from muster.common.contracts.packages import Mode

_ALIVE: Final = frozenset[AgentState]({"running", "idle", "degraded", "unresponsive", "inactive"})
_ENDS: Final = frozenset[AgentState]({"starting", "stopping", "stopped", "error", "quarantined"})

AGENT_STEPS: Final[Mapping[AgentState, frozenset[AgentState]]] = {
    # To itself: a restart was requested before the first start had begun.
    "starting": _ALIVE | _ENDS,
    "running": (_ALIVE | _ENDS) - {"running"},
    "idle": (_ALIVE | _ENDS) - {"idle"},
    "degraded": (_ALIVE | _ENDS) - {"degraded"},
    "unresponsive": (_ALIVE | _ENDS) - {"unresponsive"},
    "inactive": (_ALIVE | _ENDS) - {"inactive"},
    "stopping": frozenset({"starting", "stopped", "error", "idle", "running"}),
    "stopped": frozenset({"starting", "idle", "running", "quarantined"}),
    "error": frozenset({"starting", "stopped", "idle", "running", "quarantined"}),
    "quarantined": frozenset({"stopped"}),
}
"""Which state may follow which. `idle` and `running` follow `stopped` in sandbox mode, where no process is launched."""


class IllegalStepError(Exception):
    """A caller asked for a transition that the table does not allow: a bug."""


def agent_step(state: AgentState, to: AgentState) -> AgentState:
    """Return `to`. Raises `IllegalStepError` if an agent in `state` may not go there."""
    if to not in AGENT_STEPS[state]:
        raise IllegalStepError(f"an agent may not go from {state} to {to}")
    return to


class AgentProcess(msgspec.Struct, frozen=True, kw_only=True):
    """The process of one launch as the shim knows it.

    `signal` names the signal that ended it, `signal_number` is its number. `interrupted`: neither the process nor its
    manager wanted the end; the shim stopped, or its lease expired.
    """

    launch: int
    running: bool
    pid: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    signal_number: int | None = None
    ended_at: datetime | None = None
    error: str | None = None
    interrupted: bool = False

    @property
    def failed(self) -> bool:
        """Whether it ended with an exit code other than 0."""
        return not self.running and self.exit_code != 0


class AgentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All facts for the decision.

    `is_open`: the newest launch has not ended; `asked`: the shim has confirmed its process.
    """

    desired: Desired
    state: AgentState
    launch: int
    wished_launch: int
    is_open: bool
    asked: bool
    processes: tuple[AgentProcess, ...]
    failures: tuple[datetime, ...]
    """When the launches since the last command failed, oldest first."""
    mode: Mode = "process"
    unburied: bool = False
    """Whether something of a deleted agent of this id may be left."""

    @property
    def wanted(self) -> bool:
        """Whether the newest launch is the one that should run."""
        return self.desired == "running" and self.launch >= self.wished_launch


class StopProcess(msgspec.Struct, frozen=True):
    """Step: end the process of a launch."""

    launch: int


class StartProcess(msgspec.Struct, frozen=True):
    """Step: have the shim start the process of the newest launch, which is stored already."""


class RecordRunning(msgspec.Struct, frozen=True):
    """Step: store that the newest launch runs."""

    process: AgentProcess


class RecordEnd(msgspec.Struct, frozen=True):
    """Step: store how the newest launch ended. Without a process: it never started, or the shim has no record of it."""

    process: AgentProcess | None


class CleanUpDeleted(msgspec.Struct, frozen=True):
    """Step: remove everything that deleted agents of this id left, and store that it is removed."""


class StoreLaunch(msgspec.Struct, frozen=True):
    """Step: store the next launch."""

    launch: int


class GiveUpRestarts(msgspec.Struct, frozen=True):
    """Step: store that it failed too often, and that nothing is tried until the next command."""


class RecordStopped(msgspec.Struct, frozen=True):
    """Step: store that nothing runs, as desired."""


class WaitForRestart(msgspec.Struct, frozen=True):
    """Step: wait until `until`, then restart."""

    until: datetime


class NothingToDo(msgspec.Struct, frozen=True):
    """No step: the actual state is the desired state."""


Step = (
    StopProcess
    | StartProcess
    | RecordRunning
    | RecordEnd
    | CleanUpDeleted
    | StoreLaunch
    | GiveUpRestarts
    | RecordStopped
    | WaitForRestart
    | NothingToDo
)


def decide(facts: AgentFacts, now: datetime) -> Step:
    """Return the next step. A launch begins only when no process of an older launch runs and nothing of it is left."""
    for process in facts.processes:
        if process.running and not (facts.is_open and process.launch == facts.launch):
            return StopProcess(process.launch)
    if facts.is_open:
        return _of_open(facts)
    if facts.unburied:
        return CleanUpDeleted()
    return _of_ended(facts, now) if facts.mode == "process" else NothingToDo()


def _of_open(facts: AgentFacts) -> Step:
    process = next((process for process in facts.processes if process.launch == facts.launch), None)
    if process is None:
        return StartProcess() if facts.wanted and not facts.asked else RecordEnd(None)
    if not process.running:
        return RecordEnd(process)
    if not facts.wanted:
        return StopProcess(process.launch)
    return NothingToDo() if facts.asked else RecordRunning(process)


def _of_ended(facts: AgentFacts, now: datetime) -> Step:
    if facts.desired == "stopped":
        return NothingToDo() if facts.state in ("stopped", "quarantined") else RecordStopped()
    if facts.launch < facts.wished_launch or not facts.failures:
        return StoreLaunch(facts.launch + 1)
    if used_up(facts.failures):
        return NothingToDo() if facts.state == "error" else GiveUpRestarts()
    return WaitForRestart(until) if (until := due(facts.failures)) > now else StoreLaunch(facts.launch + 1)
