"""The record of a sandbox, the sandbox's states, and the decision on the next action of the reconcile loop.

```
creating ──▶ running ──▶ stopping ──▶ stopped     the worker was stopped by a command
    │           ├───────────────────▶ stopped     the worker ended after `finished`
    │           └───────────────────▶ lost        the worker ended without `finished`
    ├───────────────────────────────▶ error       the worker could not be started
    └───────────────────────────────▶ stopped     stopped or finished before it was recorded as running

each of these states ──▶ fenced ──▶ deleted       its epoch was ended
each of these states ─────────────▶ deleted       deleted by a command
```
`MOVES` is the exact table. The decision depends only on the record, the worker's process and the last frame of the
sandbox's log, and not on earlier events. So after a crash the reconcile loop reads the same three facts and decides on
the same action again. `wanted` is the desired state and `state` is the actual state.
"""

from datetime import datetime
from decimal import Decimal
from enum import Enum, auto
from typing import Literal

import msgspec

from muster.common.contract import Message
from muster.common.contracts.gateway import CreateSandbox, SandboxState, SandboxView
from muster.common.contracts.packages import Resources
from muster.common.contracts.sandbox_log import FrameHead, FrameKind
from muster.common.faults import Conflict
from muster.sandbox_gateway.providers.interface import ProcessState
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
"""States in which no worker should run. The sandbox stays in such a state until it is fenced or deleted."""


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
    waiting: str | None = None
    """The fault that the last try to start the worker met. The gateway tries again."""
    preparing_at: datetime | None = None
    """When a gateway last wrote that it makes the sandbox, or waits to make it."""
    start_s: float | None = None
    private_bytes: int | None = None
    not_forked: str | None = None
    limits: Resources | None = None
    limited_by: str | None = None
    exceeded: str | None = None
    refused: bool = False
    """Whether `error` is a refusal that each later attempt of the task would get too."""
    ended_because: str | None = None
    """Why the gateway itself ends the worker. The manager is told this reason."""
    rest_since: datetime | None = None
    """When a gateway saw first that the sandbox is at rest."""
    used_until: datetime | None = None
    """Until when the content of the sandbox at rest is being read or changed."""
    suspended_at: datetime | None = None
    """When the sandbox at rest was stopped at its provider. Its files are kept there."""
    runs_since: datetime | None = None
    """Since when the sandbox has run at its provider without a break; None while it does not."""
    ran_s: float = 0.0
    """Seconds for which the sandbox ran at its provider before `runs_since`."""
    usd_per_hour: Decimal | None = None
    """The price of the sandbox at its provider; None if it is unknown."""

    @property
    def sandbox_id(self) -> str:
        """The id of the sandbox."""
        return self.create.sandbox_id

    @property
    def owner(self) -> LogOwner:
        """The ids of the sandbox, task and agent and the epoch to which the sandbox's log belongs."""
        create = self.create
        return LogOwner(create.sandbox_id, create.task_id, create.agent_id, create.epoch)

    @property
    def live(self) -> bool:
        """Whether the sandbox's worker may be running."""
        return self.state in ("creating", "running", "stopping")

    @property
    def opened(self) -> bool:
        """Whether the sandbox's log was certainly opened.

        The log is opened before the worker is started, and before a failed start is reported.
        """
        return self.pid is not None or self.error is not None or self.state in ("running", "lost", "error")

    def moved(self, state: SandboxState, **changes: object) -> "SandboxRecord":
        """Return a copy of the record with another state. Raises `Conflict` if `MOVES` does not allow this change."""
        if state != self.state and state not in MOVES[self.state]:
            raise Conflict(f"a sandbox in the state {self.state} cannot change to the state {state}")
        return msgspec.structs.replace(self, state=state, **changes)

    def view(self, next_seq: int | None = None) -> SandboxView:
        """Return the view of the sandbox that is sent to other services."""
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
            preparing_at=self.preparing_at,
            waiting=self.waiting if self.state == "creating" else None,
            start_s=self.start_s,
            private_bytes=self.private_bytes,
            not_forked=self.not_forked,
            rest_since=self.rest_since if self.state in AT_REST else None,
            suspended_at=self.suspended_at if self.state in AT_REST else None,
            limits=self.limits,
            limited_by=self.limited_by,
            exceeded=self.exceeded,
        )


def measured(record: SandboxRecord, process: ProcessState) -> SandboxRecord:
    """Return the record with the worker's start time, memory and limits, as far as they are known."""
    start_s = record.start_s if process.start_s is None else process.start_s
    private = record.private_bytes if process.private_bytes is None else process.private_bytes
    return msgspec.structs.replace(
        record,
        start_s=start_s,
        private_bytes=private,
        not_forked=process.not_forked,
        limits=process.limits or record.limits,
        limited_by=process.limited_by or record.limited_by,
    )


def measurement_changed(record: SandboxRecord, process: ProcessState) -> bool:
    """Return whether the worker has become ready, or its memory differs from the recorded one by a quarter."""
    if record.state != "running":
        return False
    if record.start_s is None and process.start_s is not None:
        return True
    if process.private_bytes is None:
        return False
    now, before = process.private_bytes, record.private_bytes or 0
    return abs(now - before) * 4 > max(now, before)


class NextAction(Enum):
    """The next action of the reconcile loop on a sandbox."""

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


def needs_tail(record: SandboxRecord, process: ProcessState | None) -> bool:
    """Whether the next action depends on the last frame of the sandbox's log.

    The log need not be read for a worker that runs and is recorded as running. This keeps the periodic check cheap.
    """
    return record.state == "creating" or (record.live and (process is None or not process.running))


def next_action(
    record: SandboxRecord, process: ProcessState | None, tail: FrameHead | None, *, overdue: bool
) -> NextAction:
    """Decide on the next action for a sandbox, from its record, its worker's process and the last frame of its log.

    `overdue` is true if the sandbox was fenced and the agent manager has not stopped its worker in time.
    """
    runs = process is not None and process.running
    if record.state == "deleted" or record.wanted == "deleted":
        return NextAction.REST if record.state == "deleted" else NextAction.DELETE
    if record.wanted == "stopped" and record.live:
        # An end that the gateway itself has decided on is reported, because the manager does not know of it.
        return NextAction.STOP if runs or record.ended_because is None else _next_of_ended(tail)
    if record.state in AT_REST:
        # If a worker still runs here, a delayed action has started it, or it was not stopped after its epoch ended.
        return NextAction.STOP if runs and (record.state != "fenced" or overdue) else NextAction.REST
    if record.state == "creating":
        return NextAction.REPORT if record.error else _next_of_creating(process, tail)
    if runs:
        return NextAction.STOP if overdue else NextAction.REST
    return _next_of_ended(tail)


def _next_of_ended(tail: FrameHead | None) -> NextAction:
    finished = tail is not None and (tail.kind.terminal or tail.kind is FrameKind.FINISHED)
    return NextAction.SETTLE if finished else NextAction.REPORT


def _next_of_creating(process: ProcessState | None, tail: FrameHead | None) -> NextAction:
    if process is None and tail is not None and tail.kind.terminal:
        return NextAction.DISCARD  # the sandbox was fenced before the create command arrived
    if process is None:
        return NextAction.SETTLE if tail is not None and tail.kind is FrameKind.FINISHED else NextAction.START
    return NextAction.ADOPT if process.running or process.error is None else NextAction.REPORT
