"""The generic agent subjects, for anyone with the `nats` CLI, and what a process-mode agent says and hears."""

from datetime import datetime
from typing import Any, Literal

from muster.common.contract import Command, Event, Message
from muster.common.contracts.agent_spec import AgentSpec
from muster.common.contracts.agents import AgentState
from muster.common.contracts.doors import Beat
from muster.common.contracts.limits import Count, Gauges, Launch, Seconds


class AgentResponse(Message):
    """What became of a generic command or query: the one shape of it, for who asked and for who listens."""

    status: Literal["success", "error"]
    command: str
    agent_id: str
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    """`{code, status, detail, field}` of the fault."""
    timestamp: datetime


class AgentManagerResponse(AgentResponse, Event, subject="agent.manager.response"):
    """Every outcome, for whoever listens."""


class AgentAnswered(AgentResponse, Event, subject="agent.{agent_id}.response"):
    """An agent's every outcome, for whoever may listen to it."""


class AgentManagerCommand(Command[AgentResponse], subject="agent.manager.command"):
    """`command`: start, stop, restart, status, and every verb of `agent.manager.command.*`."""

    command: str
    agent_id: str = ""
    params: dict[str, Any] = {}
    timestamp: datetime | None = None


class AgentManagerQuery(Command[AgentResponse], subject="agent.manager.query"):
    """`command`: get, list, status, metrics, logs, find, capabilities, packages."""

    command: str
    agent_id: str = ""
    params: dict[str, Any] = {}
    timestamp: datetime | None = None


class AgentOrder(Command[AgentResponse], subject="agent.{agent_id}.command"):
    """The manager to one agent: `stop`, `restart`, `status`, `message` (`params`: `message_id`, `text`, `sender`)."""

    agent_id: str
    command: str
    launch: Launch
    params: dict[str, Any] = {}
    timestamp: datetime | None = None


class AgentQuestion(Command[AgentResponse], subject="agent.{agent_id}.query"):
    """The manager to one agent: `health` or `metrics`."""

    agent_id: str
    command: Literal["health", "metrics"]
    launch: Launch
    timestamp: datetime | None = None


class AgentBeat(Event, subject="agent.{agent_id}.status"):
    """An agent's own word that it lives; `n` counts from 1 within a launch. One of an older launch counts nothing."""

    agent_id: str
    launch: Launch
    n: Count
    beat: Beat
    next_within_s: Seconds
    """When the next one is due; adaptive within the bounds of architecture §7."""
    metadata: dict[str, Any] = {}


class AgentMeasured(Event, subject="agent.{agent_id}.metrics"):
    """An agent's own numbers."""

    agent_id: str
    launch: Launch
    at: datetime
    metrics: Gauges


class AgentStatusTold(Event, subject="agent.status"):
    """A change of state that the manager accepted; `cites` names what it rests on."""

    agent_id: str
    status: AgentState
    at: datetime
    cites: str
    last_seen: datetime | None = None
    exit_code: int | None = None
    metadata: dict[str, Any] = {}


class AgentMetricsTold(Event, subject="agent.metrics"):
    """Metrics that the manager accepted."""

    agent_id: str
    at: datetime
    metrics: Gauges


class ProcessHandoff(AgentSpec):
    """What a process-mode agent reads and unlinks at its start (`--handoff FILE`).

    M2's variables (AGENT_ID, AGENT_TYPE, AGENT_NAME, AGENT_VERSION, NATS_URL without credentials) are in its
    environment; its credentials are only here.
    """

    agent_id: str
    launch: Launch
    agent_type: str
    agent_version: str
    nats_url: str
    credentials: str
    """A NATS creds file's text; empty where the server asks for none. Renewed below `credentials_file`."""
    credentials_file: str
    state_dir: str
    beat_running_s: float = 5.0
    beat_idle_s: float = 10.0
    nats_authorities: str = ""
    """PEM text of whose certificates NATS may have: then nothing is sent to it without TLS. Empty: as its URL says."""
