"""One run of one task, for an agent that keeps its own record of it (`Agent.task`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from muster.agent.activity import AgentActivity
from muster.agent.output import emit_line
from muster.common.clock import Clock
from muster.common.contracts.doors import Handoff, InboxMessage
from muster.common.contracts.sandbox_log import Finished, LoggedEvent

if TYPE_CHECKING:  # its HTTP client is only loaded where there is a gateway
    from muster.agent.gateway_client import GatewayClient


class EventSource(Protocol):
    """The agent's events as they are on its disk; `seq` is the index plus one. Called from a worker thread."""

    def count(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int, limit: int) -> list[LoggedEvent]:
        """Those from index `start` on, at most `limit`."""
        ...


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """What a worker gives to a run."""

    handoff: Handoff
    activity: AgentActivity
    """Say here what the agent is busy with."""
    announce: Callable[[], None]
    """Call it after events were written to disk; any thread may."""
    gateway: GatewayClient
    """For a model request without a library of its own: `gateway.complete`."""
    now: Clock

    @property
    def workspace(self) -> Path:
        """Where the repository is."""
        return Path(self.handoff.workspace)

    @property
    def state_dir(self) -> Path:
        """Where the agent keeps what must survive a kill."""
        return Path(self.handoff.state_dir)


class TaskRun(ABC):
    """Cheap to construct: heavy imports belong into `run`, where the beat already goes."""

    def __init__(self, context: TaskContext) -> None:
        self.context = context

    @property
    @abstractmethod
    def events(self) -> EventSource:
        """The events on disk. What is announced must be there before."""

    @property
    @abstractmethod
    def delivered(self) -> set[str]:
        """The ids of the steering messages that the conversation on disk already holds."""

    @abstractmethod
    async def run(self) -> Finished:
        """Works on the objective, from where the disk says it stands, until it is done. The worker adds the diff."""

    @abstractmethod
    async def deliver(self, message: InboxMessage) -> None:
        """Puts a message into the running conversation, on disk, before it returns (`steering.marked`)."""

    @abstractmethod
    async def stop(self) -> None:
        """Asks `run` to end soon, and lets go of what it holds. May be called twice, and before `run`."""

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        """What the agent emits: a line of its output, unless the run's record can hold it."""
        emit_line(kind, fields)
