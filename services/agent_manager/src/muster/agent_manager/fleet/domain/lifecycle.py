"""Decides the next step for an agent in process mode from its desired state, its stored state and its processes.

```
stopped ─▶ starting ─▶ running | idle ─▶ stopping ─▶ stopped
              ▲              │
              └── error ◀────┘  (exit code other than 0; restarts after 0, 1, 2, 4 … s)
```

The manager stores a launch before it asks the shim, the program that starts processes, to start the process. The number
of the launch identifies the process. So a manager that starts after a crash, or takes over the agent, reads which
launch was begun, and continues that launch.
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
    # `starting` may follow `starting`: an operator may request a restart before the first start has begun.
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
"""The states that may follow each state. `idle` and `running` follow `stopped` only in sandbox mode."""


class IllegalStepError(Exception):
    """A bug: the code asked for a change of an agent's state that the table of transitions does not allow."""


def agent_step(state: AgentState, to: AgentState) -> AgentState:
    """Return `to`. Raises `IllegalStepError` if an agent may not change from `state` to `to`."""
    if to not in AGENT_STEPS[state]:
        raise IllegalStepError(f"an agent may not change from state {state} to {to}: this is a bug")
    return to


class AgentProcess(msgspec.Struct, frozen=True, kw_only=True):
    """The process of one launch of an agent, as the shim (the program that starts processes) knows it.

    `signal` names the signal that ended the process, `signal_number` is its number. `interrupted` means that the shim
    stopped, or that the process's lease in the shim expired. No manager asked for this end.
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
        """Whether the process has ended with an exit code other than 0, or without an exit code."""
        return not self.running and self.exit_code != 0


class AgentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All values from which the next step for an agent is decided.

    `is_open`: the newest launch has not ended. `asked`: the shim has confirmed the process of the newest launch.
    """

    desired: Desired
    state: AgentState
    launch: int
    min_launch: int
    is_open: bool
    asked: bool
    processes: tuple[AgentProcess, ...]
    failures: tuple[datetime, ...]
    """The times at which launches since the last command failed, oldest first."""
    mode: Mode = "process"
    uncleaned: bool = False
    """Whether something of a deleted agent of this id may be left."""

    @property
    def wanted(self) -> bool:
        """Whether the agent must run, and no command has requested a newer launch."""
        return self.desired == "running" and self.launch >= self.min_launch


class StopProcess(msgspec.Struct, frozen=True):
    """Step: stop the process of the launch with this number."""

    launch: int


class StartProcess(msgspec.Struct, frozen=True):
    """Step: ask the shim to start the process of the newest launch, which is stored already."""


class RecordRunning(msgspec.Struct, frozen=True):
    """Step: store that the process of the newest launch runs."""

    process: AgentProcess


class RecordEnd(msgspec.Struct, frozen=True):
    """Step: store the end of the newest launch. `process` is None if the shim has no record of a process."""

    process: AgentProcess | None


class CleanUpDeleted(msgspec.Struct, frozen=True):
    """Step: remove the processes and files of deleted agents with this id, and store that they are removed."""


class StoreLaunch(msgspec.Struct, frozen=True):
    """Step: store a new launch with this number; its process starts afterwards."""

    launch: int


class GiveUpRestarts(msgspec.Struct, frozen=True):
    """Step: store that the agent failed too often. Only a command can start the agent again."""


class RecordStopped(msgspec.Struct, frozen=True):
    """Step: store that the agent is stopped, which is its desired state."""


class WaitForRestart(msgspec.Struct, frozen=True):
    """Step: wait until the time `until`, then restart the agent."""

    until: datetime


class NothingToDo(msgspec.Struct, frozen=True):
    """No step is needed: the actual state of the agent is the desired state."""


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
    """Return the next step for an agent. A launch begins only after all processes of older launches have ended."""
    for process in facts.processes:
        if process.running and not (facts.is_open and process.launch == facts.launch):
            return StopProcess(process.launch)
    if facts.is_open:
        return _of_open(facts)
    if facts.uncleaned:
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
    if facts.launch < facts.min_launch or not facts.failures:
        return StoreLaunch(facts.launch + 1)
    if used_up(facts.failures):
        return NothingToDo() if facts.state == "error" else GiveUpRestarts()
    return WaitForRestart(until) if (until := due(facts.failures)) > now else StoreLaunch(facts.launch + 1)
