"""An agent without anything around it, for the tests of its author."""

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
    """A started agent, spoken to from a test that knows no event loop."""

    def __init__(self, runner: asyncio.Runner, agent: Agent, emitted: list[tuple[str, dict[str, Any]]]) -> None:
        self._runner, self.agent, self.emitted = runner, agent, emitted

    def tell(self, text: str, *, sender: str = "rehearsal", urgent: bool = False) -> str | None:
        """Its answer. Raises what the agent raises."""
        told = AgentMessage(message_id=new_id("msg"), text=text, sender=sender, urgent=urgent)
        return self._runner.run(self.agent.on_message(told))

    def health(self) -> dict[str, Any]:
        """As Muster would be answered."""
        return self._runner.run(health_of(self.agent.health))

    def metrics(self) -> dict[str, float]:
        """Its own numbers."""
        return self._runner.run(self.agent.metrics())


@contextmanager
def started_agent(
    factory: AgentFactory, folder: Path, config: dict[str, Any] | None = None
) -> Generator[AgentTestClient]:
    """Starts an agent with `folder` as its state, and stops it at the end."""
    emitted: list[tuple[str, dict[str, Any]]] = []

    async def made() -> Agent:
        agent = factory(_context(folder, config or {}, emitted))
        await agent.start()
        return agent

    with asyncio.Runner() as runner:
        agent = runner.run(made())
        try:
            yield AgentTestClient(runner, agent, emitted)
        finally:
            runner.run(agent.stop())


def _context(folder: Path, config: dict[str, Any], emitted: list[tuple[str, dict[str, Any]]]) -> Context:
    workspace = folder / "workspace"
    workspace.mkdir(parents=True, exist_ok=True)
    return Context(
        agent_id="agt_rehearsal",
        name="rehearsal",
        agent_type="rehearsal",
        agent_version="0",
        mode="process",
        config=config,
        state_dir=folder,
        workspace=workspace,
        activity=AgentActivity(AutoResetEvent(), utc_now, state="idle"),
        emit=lambda kind, fields: emitted.append((kind, fields)),
        now=utc_now,
    )
