"""Which state may follow which. What is not in these tables is refused, and nothing else may write a state."""

from collections.abc import Mapping
from typing import Final

from muster.common.contracts.tasks import AttemptState, TaskState

TASK_STEPS: Final[Mapping[TaskState, frozenset[TaskState]]] = {
    "blocked": frozenset({"queued", "failed", "cancelled"}),
    "queued": frozenset({"assigned", "failed", "cancelled"}),
    "assigned": frozenset({"running", "retrying", "failed", "cancelled"}),
    "running": frozenset({"validating", "retrying", "failed", "cancelled"}),
    "validating": frozenset({"completed", "retrying", "failed", "cancelled", "escalated"}),
    # To `validating`: the log had `finished` before the fence that was to end the epoch.
    "retrying": frozenset({"queued", "validating", "failed", "cancelled", "escalated"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "escalated": frozenset({"queued", "failed", "cancelled"}),
}

ATTEMPT_STEPS: Final[Mapping[AttemptState, frozenset[AttemptState]]] = {
    "intent": frozenset({"creating", "lost", "fenced"}),
    "creating": frozenset({"running", "lost", "fenced"}),
    "running": frozenset({"finished", "lost", "fenced"}),
    "finished": frozenset(),
    "lost": frozenset(),
    "fenced": frozenset(),
}

TASK_ENDS: Final = frozenset[TaskState](state for state, steps in TASK_STEPS.items() if not steps)
PENDING: Final = frozenset[TaskState]({"blocked", "queued", "retrying"})
"""What the queue limit counts."""
LIVE: Final = frozenset[AttemptState](state for state, steps in ATTEMPT_STEPS.items() if steps)
"""An attempt in one of these holds its task's live epoch."""

_ATTEMPT_LINE: Final[tuple[AttemptState, ...]] = ("intent", "creating", "running", "finished")
_TASK_LINE: Final[tuple[TaskState, ...]] = ("assigned", "running", "validating")


class IllegalTransitionError(Exception):
    """A bug: the caller did not ask the table."""


def task_step(state: TaskState, to: TaskState) -> TaskState:
    """`to`. Raises `IllegalTransitionError` when a task may not go there from `state`."""
    if to not in TASK_STEPS[state]:
        raise IllegalTransitionError(f"a task may not go from {state} to {to}")
    return to


def attempt_step(state: AttemptState, to: AttemptState) -> AttemptState:
    """`to`. Raises `IllegalTransitionError` when an attempt may not go there from `state`."""
    if to not in ATTEMPT_STEPS[state]:
        raise IllegalTransitionError(f"an attempt may not go from {state} to {to}")
    return to


def attempt_way(state: AttemptState, to: AttemptState) -> tuple[AttemptState, ...]:
    """The steps along the good line from `state` to `to`; none when it is there, beyond, or off the line.

    Replicas share a consumer, so a later frame may be handled before an earlier one.
    """
    return _way(_ATTEMPT_LINE, state, to)


def task_way(state: TaskState, to: TaskState) -> tuple[TaskState, ...]:
    """`attempt_way` for tasks; from `retrying`, only to `validating`."""
    if (state, to) == ("retrying", "validating"):
        return ("validating",)
    return _way(_TASK_LINE, state, to)


def _way[S: str](line: tuple[S, ...], state: S, to: S) -> tuple[S, ...]:
    if state not in line:
        return ()
    return line[line.index(state) + 1 : line.index(to) + 1]
