"""Filters of lists, as keyword arguments. A listed object matches all given filters; None matches any value."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, TypedDict

from muster.common.contracts.agents import AgentState
from muster.common.contracts.packages import Mode
from muster.common.contracts.tasks import TaskState

Outcome = Literal["done", "refused"]
"""The outcome of an audited action: the service performed or refused the action."""


class TaskFilters(TypedDict, total=False):
    """Filters of the list of tasks."""

    state: TaskState | None
    project: str | None
    labels: Mapping[str, str]


class AgentFilters(TypedDict, total=False):
    """Filters of the list of agents. `name_starts` is the beginning of the agent's name."""

    state: AgentState | None
    package: str | None
    mode: Mode | None
    capability: str | None
    name_starts: str | None
    labels: Mapping[str, str]


class AuditFilters(TypedDict, total=False):
    """Filters of the audit log: entries at or after `since` and before `until`. Both times need a time zone."""

    who: str | None
    action: str | None
    service: str | None
    outcome: Outcome | None
    trace_id: str | None
    since: datetime | None
    until: datetime | None
