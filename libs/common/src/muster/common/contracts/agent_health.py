"""The health and the metrics of an agent."""

from datetime import datetime
from typing import Any, Literal

from muster.common.contract import Command, Message
from muster.common.contracts.agents import AgentState, Desired


class AgentStatusView(Message):
    """The state of an agent. `health` is the agent's answer to the health query that the manager has just sent.

    `asked` is the result of that query: the agent answered, did not answer, or does not run.
    """

    agent_id: str
    state: AgentState
    desired: Desired
    state_since: datetime
    cites: str
    last_seen: datetime | None
    pid: int | None
    exit_code: int | None
    reason: str | None
    health: dict[str, Any] | None
    asked: Literal["answered", "no_answer", "not_running"]


class GetAgentStatus(Command[AgentStatusView], subject="agent.manager.query.status"):
    """Return the state of an agent. If the agent runs, the manager also asks the agent for its health."""

    agent_id: str


class AgentMetricsView(Message):
    """The latest metrics that an agent has sent, and the numbers that the manager counts about the agent.

    `at` is the time of the agent's metrics (None: the agent has sent none yet). The manager counts `counted` at the
    time of the request. `uptime_s` in `counted` is the age of the agent's process in seconds. An agent may also send a
    metric of that name.
    """

    agent_id: str
    at: datetime | None
    metrics: dict[str, float]
    counted: dict[str, float]
    """`restarts`, `launches`, `uptime_s`, `tasks`, `model_calls`, `tokens`, `cost_usd`."""


class GetAgentMetrics(Command[AgentMetricsView], subject="agent.manager.query.metrics"):
    """Return the metrics of an agent."""

    agent_id: str
