"""The messages of the generic agent subjects, which any NATS client can use, and those of a process-mode agent.

A person with the `nats` CLI sends commands on `agent.manager.command` and `agent.manager.query`. A process-mode agent
receives commands and sends heartbeats and metrics below `agent.{agent_id}`.
"""

from datetime import datetime
from typing import Any, Literal

from muster.common.contract import Command, Event, Message
from muster.common.contracts.agent_spec import AgentSpec
from muster.common.contracts.agents import AgentState
from muster.common.contracts.limits import Count, Gauges, Launch, Seconds
from muster.common.contracts.worker_api import Beat


class AgentResponse(Message):
    """The outcome of a generic command or query: sent as the reply, and published as an event."""

    status: Literal["success", "error"]
    command: str
    agent_id: str
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    """`{code, status, detail, field}` of the fault."""
    timestamp: datetime


class AgentManagerResponse(AgentResponse, Event, subject="agent.manager.response"):
    """The outcome of every generic command and query, published for all subscribers."""


class AgentAnswered(AgentResponse, Event, subject="agent.{agent_id}.response"):
    """The outcome of every generic command and query about one agent, published for its subscribers.

    If `message_id` is set, the event is the outcome of a message. The agent sends it with a reply subject, and sends it
    again until a manager has stored the outcome and replied.
    """

    message_id: str = ""
    launch: Launch = 0


class AgentManagerCommand(Command[AgentResponse], subject="agent.manager.command"):
    """A generic command to the manager.

    `command` is `status` or the last part of an `agent.manager.command.*` subject.
    """

    command: str
    agent_id: str = ""
    params: dict[str, Any] = {}
    timestamp: datetime | None = None


class AgentManagerQuery(Command[AgentResponse], subject="agent.manager.query"):
    """A generic query to the manager.

    `command` is get, list, status, metrics, logs, find, capabilities or packages.
    """

    command: str
    agent_id: str = ""
    params: dict[str, Any] = {}
    timestamp: datetime | None = None


class AgentOrder(Command[AgentResponse], subject="agent.{agent_id}.command"):
    """A command of the manager to an agent's process: `stop`, `restart`, `status` or `message`.

    The `params` of `message` are `message_id`, `text` and `sender`.
    """

    agent_id: str
    command: str
    launch: Launch
    params: dict[str, Any] = {}
    timestamp: datetime | None = None


class AgentQuestion(Command[AgentResponse], subject="agent.{agent_id}.query"):
    """A query of the manager to an agent's process: `health` or `metrics`."""

    agent_id: str
    command: Literal["health", "metrics"]
    launch: Launch
    timestamp: datetime | None = None


class AgentBeat(Event, subject="agent.{agent_id}.status"):
    """The heartbeat of an agent's process. `n` counts the heartbeats of one launch from 1.

    The manager ignores heartbeats of an older launch.
    """

    agent_id: str
    launch: Launch
    n: Count
    beat: Beat
    next_within_s: Seconds
    """The next heartbeat follows within these seconds. The agent adapts them within the bounds of architecture §7."""
    metadata: dict[str, Any] = {}


class AgentMeasured(Event, subject="agent.{agent_id}.metrics"):
    """The metrics that an agent's process sends."""

    agent_id: str
    launch: Launch
    at: datetime
    metrics: Gauges


class AgentStatusTold(Event, subject="agent.status"):
    """A change of an agent's state that the manager has accepted. `cites` names the event that proves the change."""

    agent_id: str
    status: AgentState
    at: datetime
    cites: str
    last_seen: datetime | None = None
    exit_code: int | None = None
    metadata: dict[str, Any] = {}


class AgentMetricsTold(Event, subject="agent.metrics"):
    """The metrics of an agent that the manager has accepted."""

    agent_id: str
    at: datetime
    metrics: Gauges


class ProcessHandoff(AgentSpec):
    """The handoff: the file that a process-mode agent reads and deletes at its start (`--handoff FILE`).

    The environment of the process contains AGENT_ID, AGENT_TYPE, AGENT_NAME, AGENT_VERSION and NATS_URL (without
    credentials). Only this file contains the credentials.
    """

    agent_id: str
    launch: Launch
    agent_type: str
    agent_version: str
    nats_url: str
    credentials: str
    """The text of a NATS creds file, empty if the server requires none. `credentials_file` has the renewed text."""
    credentials_file: str
    state_dir: str
    beat_running_s: float = 5.0
    beat_idle_s: float = 10.0
    nats_authorities: str = ""
    """The certificate authorities of the NATS server (PEM text). If given, the agent sends nothing without TLS.

    If empty, the URL decides about TLS.
    """
    restarts: int = 0
    """The number of restarts after a failure since a command last started the agent."""
