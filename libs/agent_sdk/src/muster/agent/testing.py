"""Runs an agent without a server, for the tests of an agent package."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from muster.agent.activity import AgentActivity
from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.base import Agent, AgentFactory, AgentMessage, Context
from muster.agent.process_metrics import health_of
from muster.common.clock import utc_now
from muster.common.ids import new_id


class AgentTestClient:
    """Calls the methods of a started agent from a synchronous test."""

    def __init__(self, runner: asyncio.Runner, agent: Agent, emitted: list[tuple[str, dict[str, Any]]]) -> None:
        self._runner, self.agent, self.emitted = runner, agent, emitted
        """`emitted` holds the kind and the fields of every event of `Agent.emit`, in order."""

    def send(self, text: str, *, sender: str = "test", urgent: bool = False) -> str | None:
        """Send a message to the agent and return its answer. An exception of the agent is raised unchanged."""
        message = AgentMessage(message_id=new_id("msg"), text=text, sender=sender, urgent=urgent)
        return self._runner.run(self.agent.on_message(message))

    def health(self) -> dict[str, Any]:
        """Return the agent's health in the form that the manager receives."""
        return self._runner.run(health_of(self.agent.health))

    def metrics(self) -> dict[str, float]:
        """Return the agent's own metrics."""
        return self._runner.run(self.agent.metrics())


@contextmanager
def started_agent(
    factory: AgentFactory, folder: Path, config: dict[str, Any] | None = None
) -> Generator[AgentTestClient]:
    """Start an agent with `folder` as its state directory. Stop the agent at the end of the block."""
    emitted: list[tuple[str, dict[str, Any]]] = []

    async def start() -> Agent:
        agent = factory(_context(folder, config or {}, emitted))
        await agent.start()
        return agent

    with asyncio.Runner() as runner:
        agent = runner.run(start())
        try:
            yield AgentTestClient(runner, agent, emitted)
        finally:
            runner.run(agent.stop())


def _context(folder: Path, config: dict[str, Any], emitted: list[tuple[str, dict[str, Any]]]) -> Context:
    workspace = folder / "workspace"
    workspace.mkdir(parents=True, exist_ok=True)
    return Context(
        agent_id="agt_test",
        name="test",
        agent_type="test",
        agent_version="0",
        mode="process",
        config=config,
        state_dir=folder,
        workspace=workspace,
        activity=AgentActivity(AutoResetEvent(), utc_now, state="idle"),
        emit=lambda kind, fields: emitted.append((kind, fields)),
        now=utc_now,
    )
