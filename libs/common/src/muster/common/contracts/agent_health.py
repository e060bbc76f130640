"""The health of an agent: how it is, by its own word too, and its numbers."""

from datetime import datetime
from typing import Any, Literal

from muster.common.contract import Command, Message
from muster.common.contracts.agents import AgentState, Desired


class AgentStatusView(Message):
    """How an agent is. `health` is its own answer, asked just now; `asked` says how that went."""

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
    """How it is; the running agent itself is asked too."""

    agent_id: str


class AgentMetricsView(Message):
    """The last metrics an agent gave, `at` some moment (None: never yet), and what the manager counts, as of now.

    `uptime_s` in `counted` is how long its process runs; an agent may count one of its own.
    """

    agent_id: str
    at: datetime | None
    metrics: dict[str, float]
    counted: dict[str, float]
    """`restarts`, `launches`, `uptime_s`, `tasks`, `model_calls`, `tokens`, `cost_usd`."""


class GetAgentMetrics(Command[AgentMetricsView], subject="agent.manager.query.metrics"):
    """Its numbers."""

    agent_id: str
