"""Tasks and agents as others see them, and the cursor of a list."""

import base64
import binascii
from datetime import datetime

import msgspec

from muster.agent_manager.domain.agents import Agent
from muster.agent_manager.domain.attempts import Attempt
from muster.agent_manager.domain.tasks import Task
from muster.agent_manager.domain.texts import shortened
from muster.common.clock import rfc3339
from muster.common.contract import token
from muster.common.contracts.agents import AgentView
from muster.common.contracts.limits import LARGEST_PAGE, LONGEST_REASON, SHORT_TEXT
from muster.common.contracts.tasks import AttemptView, TaskView
from muster.common.faults import InvalidMessage


def task_view(task: Task, attempts: list[Attempt]) -> TaskView:
    """A task with its attempts."""
    return TaskView(
        task_id=task.task_id,
        agent_id=task.agent_id,
        package=task.package,
        model=task.model,
        objective=task.objective,
        repo=task.repo,
        test_command=task.test_command,
        priority=task.priority,
        project=task.project,
        labels=task.labels,
        timeout_s=task.timeout_s,
        state=task.state,
        version=task.version,
        created_at=task.created_at,
        updated_at=task.updated_at,
        attempts=[attempt_view(attempt) for attempt in attempts],
        summary=task.summary,
        diff=task.diff,
        error=task.error,
        validation=task.validation,
        ticket_id=task.ticket_id,
        phase_id=task.phase_id,
        metadata=task.metadata,
    )


def listed_task_view(task: Task, attempts: list[Attempt]) -> TaskView:
    """A task as a list shows it: with long texts shortened."""
    view = task_view(task, attempts)
    return msgspec.structs.replace(
        view,
        objective=shortened(view.objective, SHORT_TEXT),
        test_command=shortened(view.test_command, SHORT_TEXT),
        summary=shortened(view.summary, SHORT_TEXT),
        error=shortened(view.error, SHORT_TEXT),
        validation=shortened(view.validation, SHORT_TEXT),
        attempts=[
            msgspec.structs.replace(attempt, reason=shortened(attempt.reason, SHORT_TEXT)) for attempt in view.attempts
        ],
    )


def attempt_view(attempt: Attempt) -> AttemptView:
    """One attempt."""
    return AttemptView(
        attempt_id=attempt.attempt_id,
        epoch=attempt.epoch,
        sandbox_id=attempt.sandbox_id,
        state=attempt.state,
        created_at=attempt.created_at,
        ended_at=attempt.ended_at,
        reason=shortened(attempt.reason, LONGEST_REASON),
        exit_code=attempt.exit_code,
        tokens=attempt.tokens,
        model_calls=attempt.model_calls,
        cost_usd=attempt.cost_usd,
        isolation=attempt.isolation,
    )


def agent_view(agent: Agent, *, live_tasks: int) -> AgentView:
    """One agent."""
    return AgentView(
        agent_id=agent.agent_id,
        name=agent.name,
        package=agent.package,
        agent_type=agent.agent_type,
        agent_version=agent.agent_version,
        mode=agent.mode,
        capabilities=agent.capabilities,
        config=agent.config,
        labels=agent.labels,
        is_default=agent.is_default,
        desired=agent.desired,
        state=agent.state,
        state_since=agent.state_since,
        cites=agent.cites,
        reason=agent.reason,
        exit_code=agent.exit_code,
        launch=agent.launch,
        restarts=agent.restarts,
        pid=agent.pid,
        owner=agent.owner,
        last_seen=agent.last_seen,
        live_tasks=live_tasks,
        version=agent.version,
        created_at=agent.created_at,
        updated_at=agent.updated_at,
    )


def cursor_after(newest_first: Task | Agent) -> str:
    """Where the page after this one begins."""
    entity_id = newest_first.task_id if isinstance(newest_first, Task) else newest_first.agent_id
    return base64.urlsafe_b64encode(f"{rfc3339(newest_first.created_at)} {entity_id}".encode()).decode()


def read_cursor(cursor: str) -> tuple[datetime, str]:
    """The inverse of `cursor_after`. Raises `InvalidMessage`."""
    try:
        moment, _, entity_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        at = datetime.fromisoformat(moment)
        at.astimezone()  # one without a zone, or beyond the calendar, is no cursor of ours
    except (ValueError, OverflowError, binascii.Error):
        at, entity_id = None, ""
    if at is None or at.tzinfo is None or not entity_id or "\0" in entity_id:
        raise InvalidMessage("cursor is not one that a list gave out", field="$.cursor")
    return at, entity_id


def few(ids: list[str], field: str) -> list[str]:
    """Ids to be looked up together. Raises `InvalidMessage` where they are too many for one answer, or no ids."""
    if len(ids) > LARGEST_PAGE:
        raise InvalidMessage(f"{field} may be at most {LARGEST_PAGE}, not {len(ids)}", field=f"$.{field}")
    return [token(one, f"{field}[{at}]") for at, one in enumerate(ids)]
