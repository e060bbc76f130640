"""The record of a sandbox, its states, and the decision which action comes next.

```
creating ──▶ running ──▶ stopping ──▶ stopped     the worker was stopped by a command
    │           ├───────────────────▶ stopped     the worker ended after `finished`
    │           └───────────────────▶ lost        the worker ended without `finished`
    ├───────────────────────────────▶ error       the worker could not be started
    └───────────────────────────────▶ stopped     stopped or finished before it was recorded as running

each of these states ──▶ fenced ──▶ deleted       its epoch was ended
each of these states ─────────────▶ deleted       deleted by a command
```
`MOVES` is the exact table. The decision is level-based: it looks at the record, the worker's process and the last frame
of the log, and never at the events that led there. So after a crash the reconciler reads the same three facts and
decides the same action again. `wanted` is the desired state and `state` the actual one.
"""

from datetime import datetime
from enum import Enum, auto
from typing import Literal

import msgspec

from muster.common.contract import Message
from muster.common.contracts.gateway import CreateSandbox, SandboxState, SandboxView
from muster.common.contracts.sandbox_log import FrameHead, FrameKind
from muster.common.faults import Conflict
from muster.sandbox_gateway.providers.interface import WorkerProcess
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner

MOVES: dict[SandboxState, frozenset[SandboxState]] = {
    "creating": frozenset({"running", "stopping", "stopped", "error", "lost", "fenced", "deleted"}),
    "running": frozenset({"stopping", "stopped", "lost", "fenced", "deleted"}),
    "stopping": frozenset({"stopped", "lost", "fenced", "deleted"}),
    "stopped": frozenset({"fenced", "deleted"}),
    "error": frozenset({"fenced", "deleted"}),
    "lost": frozenset({"fenced", "deleted"}),
    "fenced": frozenset({"deleted"}),
    "deleted": frozenset(),
}
AT_REST: frozenset[SandboxState] = frozenset({"stopped", "error", "lost", "fenced"})
"""States in which no worker should run, and nothing is to be done until the sandbox is deleted."""


class SandboxRecord(Message):
    """The stored record of a sandbox: the command that created it, its desired state, and its actual state."""

    create: CreateSandbox
    host: str
    provider: str
    created_at: datetime
    state: SandboxState = "creating"
    wanted: Literal["running", "stopped", "deleted"] = "running"
    grace_s: float = 5.0
    reason: str = ""
    isolation: str = "unknown"
    pid: int | None = None
    exit_code: int | None = None
    error: str | None = None
    refused: bool = False
    """Whether `error` is a refusal that every other attempt of the task would get too."""

    @property
    def sandbox_id(self) -> str:
        """The sandbox's id."""
        return self.create.sandbox_id

    @property
    def owner(self) -> LogOwner:
        """The sandbox, task, agent and epoch that its log belongs to."""
        create = self.create
        return LogOwner(create.sandbox_id, create.task_id, create.agent_id, create.epoch)

    @property
    def live(self) -> bool:
        """Whether its worker may be running."""
        return self.state in ("creating", "running", "stopping")

    @property
    def opened(self) -> bool:
        """Whether its log has certainly begun: the log is opened before the worker is started or reported."""
        return self.pid is not None or self.error is not None or self.state in ("running", "lost", "error")

    def moved(self, state: SandboxState, **changes: object) -> "SandboxRecord":
        """Return the record in another state. Raises `Conflict` if `MOVES` does not allow the change."""
        if state != self.state and state not in MOVES[self.state]:
            raise Conflict(f"a sandbox that is {self.state} cannot become {state}")
        return msgspec.structs.replace(self, state=state, **changes)

    def view(self, next_seq: int | None = None) -> SandboxView:
        """Return the sandbox as other services see it."""
        create = self.create
        return SandboxView(
            sandbox_id=create.sandbox_id,
            task_id=create.task_id,
            agent_id=create.agent_id,
            epoch=create.epoch,
            state=self.state,
            provider=self.provider,
            isolation=self.isolation,
            package=create.package,
            model=create.model,
            created_at=self.created_at,
            pid=self.pid,
            exit_code=self.exit_code,
            next_seq=next_seq,
            error=self.error,
        )


class NextAction(Enum):
    """The action that the reconciler takes next."""

    REST = auto()
    """Do nothing: the actual state is the desired one."""
    START = auto()
    """Open the log and start the worker."""
    ADOPT = auto()
    """Record a worker that was started, but not recorded, before a crash."""
    STOP = auto()
    """Stop the worker and record that."""
    SETTLE = auto()
    """Record that the worker ended after it had finished or its epoch had ended."""
    REPORT = auto()
    """Report to the manager that the worker ended without `finished`, or could not be started."""
    DISCARD = auto()
    """Remove a sandbox that was fenced before its worker was started."""
    DELETE = auto()
    """Stop the worker, close the log, and remove the sandbox."""


def needs_tail(record: SandboxRecord, process: WorkerProcess | None) -> bool:
    """Whether the decision needs the log's tail. It does not for a running worker, which saves a read for each look."""
    return record.state == "creating" or (record.live and (process is None or not process.running))


def next_action(
    record: SandboxRecord, process: WorkerProcess | None, tail: FrameHead | None, *, overdue: bool
) -> NextAction:
    """Decide the next action. `overdue`: the sandbox was fenced, and the manager has not stopped it in time."""
    runs = process is not None and process.running
    if record.state == "deleted" or record.wanted == "deleted":
        return NextAction.REST if record.state == "deleted" else NextAction.DELETE
    if record.wanted == "stopped" and record.live:
        return NextAction.STOP
    if record.state in AT_REST:
        # A worker that runs in such a state was started by a delayed action, or was not stopped after its fence.
        return NextAction.STOP if runs and (record.state != "fenced" or overdue) else NextAction.REST
    if record.state == "creating":
        return NextAction.REPORT if record.error else _next_of_creating(process, tail)
    if runs:
        return NextAction.STOP if overdue else NextAction.REST
    return _next_of_ended(tail)


def _next_of_ended(tail: FrameHead | None) -> NextAction:
    finished = tail is not None and (tail.kind.terminal or tail.kind is FrameKind.FINISHED)
    return NextAction.SETTLE if finished else NextAction.REPORT


def _next_of_creating(process: WorkerProcess | None, tail: FrameHead | None) -> NextAction:
    if process is None and tail is not None and tail.kind.terminal:
        return NextAction.DISCARD  # the create command was delayed until after the fence of the sandbox
    if process is None:
        return NextAction.SETTLE if tail is not None and tail.kind is FrameKind.FINISHED else NextAction.START
    return NextAction.ADOPT if process.running or process.error is None else NextAction.REPORT
