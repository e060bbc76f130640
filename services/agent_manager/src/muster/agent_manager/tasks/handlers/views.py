"""Converts stored tasks and attempts to the views that clients receive."""

import msgspec

from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.shortened_texts import shortened
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.common.contract import fields_of
from muster.common.contracts.limits import LONGEST_REASON, SHORT_TEXT
from muster.common.contracts.task_spec import TaskSpec
from muster.common.contracts.tasks import AttemptView, TaskView


def task_view(task: TaskRecord, attempts: list[AttemptRecord]) -> TaskView:
    """Return the view of a task with all its attempts, as a client receives it."""
    return TaskView(
        **fields_of(TaskSpec, task.spec),
        task_id=task.task_id,
        agent_id=task.agent_id,
        wanted_agent_id=task.wanted_agent_id,
        package=task.package,
        model=task.model,
        project=task.project,
        state=task.state,
        version=task.version,
        created_at=task.created_at,
        updated_at=task.updated_at,
        attempts=[attempt_view(attempt) for attempt in attempts],
        summary=task.summary,
        diff=task.diff,
        error=task.error,
        validation=task.validation,
        limit=task.reached_limit,
        base_commit=task.base_commit,
        delivery=task.delivery,
    )


def listed_task_view(task: TaskRecord, attempts: list[AttemptRecord]) -> TaskView:
    """Return the view of a task for a list page, with its long texts shortened."""
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


def attempt_view(attempt: AttemptRecord) -> AttemptView:
    """Return the view of one attempt, as a client receives it."""
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
        unpriced_calls=attempt.unpriced_calls,
        limit=attempt.reached_limit,
        model_failure=attempt.model_failure,
        isolation=attempt.isolation,
    )
