"""A sandbox's record, the states it may take, and what there is to do next: level-based, from facts alone."""

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


class SandboxRecord(Message):
    """A sandbox as its gateways keep it: what was asked, what is wanted now, and how far that is."""

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
    """`error` is a refusal, which every other attempt would meet too."""

    @property
    def sandbox_id(self) -> str:
        """Its id."""
        return self.create.sandbox_id

    @property
    def whose(self) -> LogOwner:
        """Whose log it is."""
        asked = self.create
        return LogOwner(asked.sandbox_id, asked.task_id, asked.agent_id, asked.epoch)

    @property
    def live(self) -> bool:
        """Whether a worker of it may run."""
        return self.state in ("creating", "running", "stopping")

    @property
    def opened(self) -> bool:
        """Whether its log has begun for certain: the worker is started, and may be reported, after that."""
        return self.pid is not None or self.error is not None or self.state in ("running", "lost", "error")

    def moved(self, state: SandboxState, **changes: object) -> "SandboxRecord":
        """The record in another state. Raises `Conflict` for a move that is not in the table."""
        if state != self.state and state not in MOVES[self.state]:
            raise Conflict(f"a sandbox that is {self.state} cannot become {state}")
        return msgspec.structs.replace(self, state=state, **changes)

    def view(self, next_seq: int | None = None) -> SandboxView:
        """As others see it."""
        asked = self.create
        return SandboxView(
            sandbox_id=asked.sandbox_id,
            task_id=asked.task_id,
            agent_id=asked.agent_id,
            epoch=asked.epoch,
            state=self.state,
            provider=self.provider,
            isolation=self.isolation,
            package=asked.package,
            model=asked.model,
            created_at=self.created_at,
            pid=self.pid,
            exit_code=self.exit_code,
            next_seq=next_seq,
            error=self.error,
        )


class NextStep(Enum):
    """What a reconciler does next."""

    REST = auto()
    START = auto()
    ADOPT = auto()
    STOP = auto()
    SETTLE = auto()
    REPORT = auto()
    DISCARD = auto()
    DELETE = auto()


def needs_tail(record: SandboxRecord, process: WorkerProcess | None) -> bool:
    """Whether the decision rests on the log: not for a worker that runs as it should."""
    return record.state == "creating" or (record.live and (process is None or not process.running))


def next_step(
    record: SandboxRecord, process: WorkerProcess | None, tail: FrameHead | None, *, overdue: bool
) -> NextStep:
    """What to do. `overdue`: it was fenced, and whoever fenced it had its time to stop it."""
    runs = process is not None and process.running
    if record.state == "deleted" or record.wanted == "deleted":
        return NextStep.REST if record.state == "deleted" else NextStep.DELETE
    if record.wanted == "stopped" and record.live:
        return NextStep.STOP
    if record.state in AT_REST:
        return NextStep.STOP if runs and (record.state != "fenced" or overdue) else NextStep.REST
    if record.state == "creating":
        return NextStep.REPORT if record.error else _next_of_creating(process, tail)
    if runs:
        return NextStep.STOP if overdue else NextStep.REST
    return _next_of_ended(tail)


def _next_of_ended(tail: FrameHead | None) -> NextStep:
    finished = tail is not None and (tail.kind.terminal or tail.kind is FrameKind.FINISHED)
    return NextStep.SETTLE if finished else NextStep.REPORT


def _next_of_creating(process: WorkerProcess | None, tail: FrameHead | None) -> NextStep:
    if process is None and tail is not None and tail.kind.terminal:
        return NextStep.DISCARD  # a late create that finds the fence
    if process is None:
        return NextStep.SETTLE if tail is not None and tail.kind is FrameKind.FINISHED else NextStep.START
    return NextStep.ADOPT if process.running or process.error is None else NextStep.REPORT
