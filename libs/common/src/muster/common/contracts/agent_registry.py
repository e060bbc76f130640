"""The registry of agents: who is known, what each can do, and which one to take."""

from typing import Any

from muster.common.contract import Command, Message
from muster.common.contracts.agent_spec import AgentName, AgentSpec, Capabilities, Phase
from muster.common.contracts.agents import AgentState, AgentView
from muster.common.contracts.fields import Labels
from muster.common.contracts.packages import Capability, Mode


class RegisterAgent(Command[AgentView], AgentSpec, subject="agent.manager.command.register"):
    """Make an agent known. Idempotent by `agent_id`, which the API mints; `name` is unique (409 `conflict`)."""

    agent_id: str
    package: str


class UpdateAgent(Command[AgentView], subject="agent.manager.command.update"):
    """Change what is given. `version`: only if it is still this one (412 `precondition_failed`)."""

    agent_id: str
    version: int | None = None
    name: AgentName | None = None
    config: dict[str, Any] | None = None
    labels: Labels | None = None
    phase_id: Phase | None = None
    capabilities: Capabilities | None = None


class Deleted(Message):
    """It is gone."""

    agent_id: str


class DeleteAgent(Command[Deleted], subject="agent.manager.command.delete"):
    """Forget a stopped agent (409 while it runs or has a live task, or is its package's default)."""

    agent_id: str
    version: int | None = None


class GetAgent(Command[AgentView], subject="agent.manager.query.get"):
    """One agent, by id."""

    agent_id: str


class AgentPage(Message):
    """Agents, newest first; `next_cursor` continues after the last one.

    A page may hold fewer agents than were asked for, so that it fits into one reply.
    """

    agents: list[AgentView]
    next_cursor: str | None = None


class GetAgents(Command[AgentPage], subject="agent.manager.query.several"):
    """Some agents at once, at most 100.

    An id without an agent has no answer here, nor has an agent that does not fit into the reply: `GetAgent` answers.
    """

    agent_ids: list[str]


class ListAgents(Command[AgentPage], subject="agent.manager.query.list"):
    """Agents that match every filter given."""

    state: AgentState | None = None
    package: str | None = None
    mode: Mode | None = None
    capability: str | None = None
    labels: dict[str, str] = {}
    name_starts: str | None = None
    cursor: str | None = None
    limit: int = 50


class CapabilityView(Message):
    """A capability, and who has it."""

    capability: Capability
    packages: list[str]
    agents: int


class CapabilityList(Message):
    """All of them, by name."""

    capabilities: list[CapabilityView]


class ListCapabilities(Command[CapabilityList], subject="agent.manager.query.capabilities"):
    """What the registered agents can do."""


class Considered(Message):
    """One agent that was looked at, and why it was not chosen (`chosen`: why it was)."""

    agent_id: str
    name: str
    chosen: bool
    why: str


class Choice(Message):
    """The agent to take, if there is one; `considered` explains it, best first, at most 100."""

    agent: AgentView | None
    considered: list[Considered]


class FindAgent(Command[Choice], subject="agent.manager.query.find"):
    """Which agent can do this. `available`: only one that could take a task now."""

    capabilities: list[str] = []
    package: str | None = None
    mode: Mode | None = None
    labels: dict[str, str] = {}
    available: bool = False
