"""Decides whether the accepted result of a task is delivered, and makes the request to deliver it."""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.common.contracts.gateway import Delivered, DeliverResult
from muster.common.contracts.tasks import Delivery

PATIENCE: Final = timedelta(hours=1)
"""The time after the acceptance of a result in which its delivery is tried again."""
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


def undeliverable(delivery: Delivery, why: str) -> Delivery:
    """Return the delivery after it has failed for good."""
    return msgspec.structs.replace(delivery, state="failed", error=why)
