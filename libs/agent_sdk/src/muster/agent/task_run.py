"""The interface between a worker and a run of a task. The run stores events on its disk, the worker sends them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from muster.agent.activity import AgentActivity
from muster.agent.log_output import emit_line
from muster.common.clock import Clock
from muster.common.contracts.sandbox_log import Finished, LoggedEvent
from muster.common.contracts.worker_api import Handoff, InboxMessage

if TYPE_CHECKING:  # Only a worker needs the HTTP client, so only a worker loads it.
    from muster.agent.gateway_client import GatewayClient


class EventSource(Protocol):
    """Read access to the agent's events on disk.

    The `seq` of an event is its index plus one. The methods are called in a thread.
    """

    def count(self) -> int:
        """Return the number of events on disk."""
        ...

    def read(self, start: int, limit: int) -> list[LoggedEvent]:
        """Return at most `limit` events, from index `start` on."""
        ...


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """The handoff, directories and services that a worker passes to a run."""

    handoff: Handoff
    activity: AgentActivity
    """The agent's state in its heartbeats. Call `activity.show(busy=…)` when a model or tool call starts or ends."""
    announce: Callable[[], None]
    """Tells the outbox that new events are on disk. May be called in any thread, after the events are written."""
    gateway: "GatewayClient"
    """Sends model requests of agents that have no model client of their own: `gateway.complete`."""
    now: Clock

    @property
    def workspace(self) -> Path:
        """Return the directory with the clone of the task's repository."""
        return Path(self.handoff.workspace)

    @property
    def state_dir(self) -> Path:
        """Return the directory for files that must survive a kill. The next launch gets the same directory."""
        return Path(self.handoff.state_dir)


class TaskRun(ABC):
    """One run of one task. The constructor must be fast.

    Slow imports belong in `run`, when heartbeats are already sent.
    """

    def __init__(self, context: TaskContext) -> None:
        self.context = context

    @property
    @abstractmethod
    def events(self) -> EventSource:
        """Return the events on disk. An event must be on disk before `announce` is called for it."""

    @property
    @abstractmethod
    def delivered(self) -> set[str]:
        """Return the ids of the steering messages that are already in the conversation on disk."""

    @abstractmethod
    async def run(self) -> Finished:
        """Work on the objective until it is done. Continue after the last event on disk.

        The worker adds the diff to the result.
        """

    @abstractmethod
    async def deliver(self, message: InboxMessage) -> None:
        """Add a steering message to the running conversation, marked by `steering`.

        Return when the message is on disk.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Ask `run` to end soon, and release its resources. May be called twice, and before `run`."""

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        """Write an event of `Agent.emit` to the output. A subclass may write it to the conversation instead."""
        emit_line(kind, fields)
