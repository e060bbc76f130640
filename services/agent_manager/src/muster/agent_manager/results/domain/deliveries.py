"""Decides whether the accepted result of a task is delivered, and makes the request to deliver it."""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.common.contracts.gateway import Delivered, DeliverResult
from muster.common.contracts.task_spec import Deliver
from muster.common.contracts.tasks import Delivery
from muster.common.faults import Conflict, Fault, InvalidMessage

PATIENCE: Final = timedelta(hours=1)
"""The time after the acceptance of a result, or after a later request, in which its delivery is tried again."""
_TITLE_CHARS = 100
NO_BASE = "the worker did not name the commit that the diff applies to; submit the task again"
"""The error of a delivery whose worker is of an older release."""


def first_delivery(task: TaskRecord, *, accepted_at: datetime) -> Delivery | None:
    """Return the pending delivery of a task whose result was accepted; None if there is nothing to deliver."""
    deliver = task.spec.deliver
    if deliver is None or not deliver.push or not (task.diff or "").strip():
        return None
    # The commit has this time, in whole seconds, so that a repeated delivery makes the same commit.
    return Delivery(
        state="pending",
        branch=deliver.branch or f"muster/{task.task_id}",
        accepted_at=accepted_at.replace(microsecond=0),
    )


def later_delivery(task: TaskRecord, asked: Deliver, *, now: datetime) -> tuple[Deliver, Delivery] | None:
    """Return how the accepted result of a task is delivered after `asked`; None if nothing has to be done.

    A task has one branch and one pull request. So a request for another branch or title is refused with `Conflict`,
    unless nothing was pushed. Raises `Conflict` too if the task has no accepted result that can be delivered.
    """
    before, current = task.spec.deliver or Deliver(), task.delivery
    _refuse_undeliverable(task, asked)
    if current is not None and not current.unpushed:
        _refuse_second(task, current, asked)
    wanted = Deliver(
        branch=asked.branch or before.branch,
        pull_request=asked.pull_request or (current is not None and before.pull_request),
        title=asked.title or before.title,
    )
    if current is not None and current.state != "failed" and (before.pull_request or not wanted.pull_request):
        return None
    return wanted, Delivery(
        state="pending",
        branch=wanted.branch or f"muster/{task.task_id}",
        accepted_at=current.accepted_at if current else task.updated_at.replace(microsecond=0),
        asked_at=now,
    )


def _refuse_undeliverable(task: TaskRecord, asked: Deliver) -> None:
    accepted = task.state == "completed" or (task.state in ("validating", "failed") and task.delivery is not None)
    if not accepted:
        raise Conflict(
            f"task {task.task_id} has no accepted result to deliver (state: {task.state}); only the result of a "
            "completed task is delivered"
        )
    if not asked.push:
        raise InvalidMessage("a delivery needs a pushed branch; set push to true", field="$.push")
    if task.spec.repo is None:
        raise Conflict(f"task {task.task_id} has no repository to deliver its result to")
    if not (task.diff or "").strip():
        raise Conflict(f"the result of task {task.task_id} changes no file, so there is nothing to deliver")
    if task.base_commit is None:
        raise Conflict(NO_BASE)


def _refuse_second(task: TaskRecord, current: Delivery, asked: Deliver) -> None:
    if asked.branch not in (None, current.branch):
        raise Conflict(
            f"the result of task {task.task_id} belongs to the branch {current.branch}, and a task has one branch; "
            "leave the branch out"
        )
    title = (task.spec.deliver and task.spec.deliver.title) or None
    if asked.title not in (None, title):
        raise Conflict(
            f"the result of task {task.task_id} may have been pushed with another title, which cannot be changed; "
            "leave the title out"
        )


def delivery_request(task: TaskRecord, delivery: Delivery) -> DeliverResult | None:
    """Return the request to deliver a task's result; None if the commit that the diff applies to is not known."""
    if task.spec.repo is None or task.spec.deliver is None or task.base_commit is None:
        return None
    first_line = task.spec.objective.strip().partition("\n")[0]
    return DeliverResult(
        task_id=task.task_id,
        repo=task.spec.repo,
        deliver=task.spec.deliver,
        branch=delivery.branch,
        base=task.base_commit,
        diff=task.diff or "",
        accepted_at=delivery.accepted_at,
        title=task.spec.deliver.title or first_line[:_TITLE_CHARS],
        summary=task.summary or "",
        validation=task.validation or "",
    )


def delivered(delivery: Delivery, answer: Delivered) -> Delivery:
    """Return the delivery after the gateway has delivered the result."""
    return msgspec.structs.replace(delivery, state="delivered", commit=answer.commit, url=answer.url, error=None)


def undeliverable(delivery: Delivery, why: Fault | str) -> Delivery:
    """Return the delivery after it has failed for good."""
    unpushed = isinstance(why, Fault) and why.field == "$.deliver.branch"
    return msgspec.structs.replace(delivery, state="failed", error=str(why), unpushed=unpushed)


def is_overdue(delivery: Delivery, now: datetime) -> bool:
    """Return whether the time in which a delivery is tried again has passed."""
    return now - (delivery.asked_at or delivery.accepted_at) > PATIENCE
