"""Describes the earlier attempts of a task for its next attempt: what they used, and how the last one ended."""

from collections.abc import Sequence
from typing import Final

from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.shortened_texts import shortened
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.common.contracts.attempts import PreviousAttempt, UsedSoFar

MOST_DIFF_CHARS: Final = 20_000
MOST_SUMMARY_CHARS: Final = 4_000
MOST_VALIDATION_CHARS: Final = 4_000


def previous(task: TaskRecord, epoch: int, attempts: Sequence[AttemptRecord]) -> PreviousAttempt | None:
    """Return the attempt before `epoch`, or None for the first attempt.

    `summary`, `diff` and `validation` are of the last attempt that had a result.
    """
    before = [attempt for attempt in attempts if attempt.epoch < epoch]
    if not before:
        return None
    last = before[-1]
    return PreviousAttempt(
        epoch=last.epoch,
        ended=task.error or last.reason or "the attempt did not complete the task",
        summary=shortened(task.summary or "", MOST_SUMMARY_CHARS),
        diff=shortened(task.diff or "", MOST_DIFF_CHARS),
        validation=(task.validation or "")[-MOST_VALIDATION_CHARS:],
    )


def used(epoch: int, attempts: Sequence[AttemptRecord]) -> UsedSoFar:
    """Return the model calls, tokens and US dollars that the attempts before `epoch` used."""
    before = [attempt for attempt in attempts if attempt.epoch < epoch]
    return UsedSoFar(
        steps=sum(attempt.model_calls for attempt in before),
        tokens=sum(attempt.tokens for attempt in before),
        cost_usd=sum(attempt.cost_usd for attempt in before),
    )
