"""The registry of agents: register, change, delete and list agents, and find an agent by its capabilities."""

from typing import Any

from muster.common.contract import Command, Message
from muster.common.contracts.agent_spec import AgentName, AgentSpec, Capabilities, Phase
from muster.common.contracts.agents import AgentState, AgentView
from muster.common.contracts.fields import Labels
from muster.common.contracts.packages import Capability, Mode


class RegisterAgent(Command[AgentView], AgentSpec, subject="agent.manager.command.register"):
    """Register an agent. Idempotent by `agent_id`, which the API creates. A `name` in use is refused with 409."""

    agent_id: str
    package: str


class UpdateAgent(Command[AgentView], subject="agent.manager.command.update"):
    """Change the fields of an agent that are given.

    With `version`, the change is refused (412 `precondition_failed`) if the agent has another version by now.
    """

    agent_id: str
    version: int | None = None
    name: AgentName | None = None
    config: dict[str, Any] | None = None
    labels: Labels | None = None
    phase_id: Phase | None = None
    capabilities: Capabilities | None = None


class Deleted(Message):
    """The reply to `DeleteAgent`: the agent is deleted."""

    agent_id: str


class DeleteAgent(Command[Deleted], subject="agent.manager.command.delete"):
    """Delete a stopped agent.

    Refused with 409 while the agent runs, has a live task, or is the default agent of its package.
    """

    agent_id: str
    version: int | None = None


class GetAgent(Command[AgentView], subject="agent.manager.query.get"):
    """Return one agent by its id."""

    agent_id: str


class AgentPage(Message):
    """Agents, newest first. `next_cursor` continues after the last agent of the page.

    A page may contain fewer agents than requested, so that the reply fits into one NATS message.
    """

    agents: list[AgentView]
    next_cursor: str | None = None


class ListAgents(Command[AgentPage], subject="agent.manager.query.list"):
    """Return the agents that match all given filters."""

    state: AgentState | None = None
    package: str | None = None
    mode: Mode | None = None
    capability: str | None = None
    labels: dict[str, str] = {}
    name_starts: str | None = None
    cursor: str | None = None
    limit: int = 50


class CapabilityView(Message):
    """A capability, the packages that declare it, and the number of agents that have it."""

    capability: Capability
    packages: list[str]
    agents: int


class CapabilityList(Message):
    """The capabilities of all registered agents, sorted by name."""

    capabilities: list[CapabilityView]


class ListCapabilities(Command[CapabilityList], subject="agent.manager.query.capabilities"):
    """Return the capabilities of all registered agents."""


class Considered(Message):
    """One agent that a search compared, and the reason why it was chosen or not chosen."""

    agent_id: str
    name: str
    chosen: bool
    why: str


class Choice(Message):
    """The result of a search: the best agent, or None. `considered` lists up to 100 compared agents, best first."""

    agent: AgentView | None
    considered: list[Considered]


class FindAgent(Command[Choice], subject="agent.manager.query.find"):
    """Find the best agent with the given capabilities. `available` accepts only agents that could take a task now."""

    capabilities: list[str] = []
    package: str | None = None
    mode: Mode | None = None
    labels: dict[str, str] = {}
    available: bool = False
