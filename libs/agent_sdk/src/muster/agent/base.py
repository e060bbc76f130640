"""The base class of all agents. Authors write a subclass of `Agent`. The SDK handles NATS, HTTP and credentials."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.agent.activity import AgentActivity
from muster.agent.agent_message import AgentMessage
from muster.common.clock import Clock
from muster.common.contracts.packages import Mode
from muster.common.faults import Forbidden

if TYPE_CHECKING:  # Process-mode agents run no tasks, so they must not load the modules for tasks.
    from muster.agent.task_run import TaskContext, TaskRun

__all__ = ["Agent", "AgentFactory", "AgentMessage", "Context", "Emit"]

Emit = Callable[[str, dict[str, Any]], None]
"""Records an event of the agent: its kind and its fields."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """The identity, configuration and directories of an agent. The fields are the same in both modes."""

    agent_id: str
    name: str
    agent_type: str
    agent_version: str
    mode: Mode
    config: dict[str, Any]
    """The configuration that the agent was registered with, validated against the schemas of its capabilities."""
    state_dir: Path
    """Directory for files that must survive a kill: the next process of this agent gets the same directory."""
    workspace: Path
    """Directory that the agent works in. In a sandbox it holds a clone of the task's repository."""
    activity: AgentActivity
    """The agent's state in its heartbeats. Call `activity.show(busy=…)` when a model or tool call starts or ends."""
    emit: Emit
    """Records an event; see `Agent.emit`."""
    now: Clock
    """Returns the current UTC time."""


class Agent:
    """The base class of all agents.

    All methods run on one event loop, so long computations need `asyncio.to_thread`.
    """

    def __init__(self, context: Context) -> None:
        """Store the context.

        Slow imports and connections belong in `start`, because heartbeats begin only with `start`.
        """
        self.context = context

    async def start(self) -> None:
        """Prepare the agent. Called once, before the first message. An exception ends the process."""

    async def stop(self) -> None:
        """Release the resources that `start` acquired, within two seconds. Also called after an incomplete `start`."""

    async def on_message(self, message: AgentMessage) -> str | None:
        """Answer a message. The SDK sends the returned text to the sender.

        The SDK passes one message at a time, in order of arrival, and each `message_id` once. There are two exceptions.
        An urgent message does not wait for earlier messages. In a sandbox, a steering message is passed while the agent
        still works on the objective. If this method raises a `Fault`, the sender receives its code and text. From any
        other exception, the sender receives the class and the message; the agent's log contains the traceback.

        An answer may take any time. After 1.5 s the sender is told that the agent works on the message, and the answer
        is later an event of the agent and a line of its log. An answer over 128 KiB is cut.
        """
        raise Forbidden(
            f"agent {self.context.name} accepts no messages (message {message.message_id}); submit a task instead"
        )

    async def health(self) -> dict[str, Any]:
        """Return details of the agent's health. An exception means `failing`, with the exception as the reason."""
        return {}

    async def metrics(self) -> dict[str, float]:
        """Return the agent's own metrics, in addition to those of every agent (`process_metrics`)."""
        return {}

    def emit(self, kind: str, **fields: Any) -> None:  # noqa: ANN401 - whatever JSON can say
        """Record an event: in a sandbox in the sandbox log, in process mode as a line of the agent's log."""
        self.context.emit(kind, fields)

    def task(self, context: "TaskContext") -> "TaskRun":
        """Return the object that runs a task in a sandbox. By default it passes the objective to `on_message`."""
        from muster.agent.message_run import MessageRun

        return MessageRun(self.on_message, context)


AgentFactory = Callable[[Context], Agent]
"""Creates an agent from its context. An `Agent` subclass is such a factory."""
