"""What an agent is. An author writes one subclass of `Agent` and never sees NATS, HTTP, tokens or handoffs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.agent.activity import AgentActivity
from muster.agent.messages import AgentMessage
from muster.common.clock import Clock
from muster.common.contracts.packages import Mode
from muster.common.faults import Forbidden

if TYPE_CHECKING:  # a process-mode agent has no tasks, and does not pay for what they import
    from muster.agent.task_run import TaskContext, TaskRun

__all__ = ["Agent", "AgentFactory", "AgentMessage", "Context", "Emit"]

Emit = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an agent is given, the same in both modes."""

    agent_id: str
    name: str
    agent_type: str
    agent_version: str
    mode: Mode
    config: dict[str, Any]
    """As it was registered; the manager has checked it against the capabilities' schemas."""
    state_dir: Path
    """What must survive a kill goes here; the next process finds it."""
    workspace: Path
    """Where to work: in a sandbox the task's repository."""
    activity: AgentActivity
    """Say here what the agent is busy with, if it is worth telling."""
    emit: Emit
    now: Clock


class Agent:
    """One agent. Everything runs on one event loop: what computes for long belongs into `asyncio.to_thread`."""

    def __init__(self, context: Context) -> None:
        """Cheap: heavy imports and connections belong into `start`, where the beat already goes."""
        self.context = context

    async def start(self) -> None:
        """Once, before the first message. What it raises ends the process."""

    async def stop(self) -> None:
        """Lets go of what `start` took, within two seconds; also after a `start` that was not finished."""

    async def on_message(self, message: AgentMessage) -> str | None:
        """Answers a message. What it raises is the sender's answer: a `Fault` in words, all else as a bug.

        One at a time, in order of arrival, each `message_id` once; only an urgent one does not wait for its turn, and
        in a sandbox a steering message comes while the objective is worked on.
        """
        raise Forbidden(f"{self.context.name} takes no messages; it works on tasks ({message.message_id})")

    async def health(self) -> dict[str, Any]:
        """What there is to say about its health. Raising says that it is failing, and why."""
        return {}

    async def metrics(self) -> dict[str, float]:
        """Its own numbers, beside those every agent has (`gauges`)."""
        return {}

    def emit(self, kind: str, **fields: Any) -> None:  # noqa: ANN401 - whatever JSON can say
        """Says that something happened: an event of the sandbox's log, or a line of the agent's log."""
        self.context.emit(kind, fields)

    def task(self, context: "TaskContext") -> "TaskRun":
        """How a whole task is done in a sandbox. Unless an agent has a way of its own, by `on_message`."""
        from muster.agent.message_run import MessageRun

        return MessageRun(self.on_message, context)


AgentFactory = Callable[[Context], Agent]
